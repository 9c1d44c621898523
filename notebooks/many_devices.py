# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Descent on many devices
#
# In data parallelism, $N$ members hold the same parameters. Each takes a different shard of the batch, and all step
# along the mean of their gradients. JAX has three ways to name such members. A step from
# `gd.make_step(..., axis_name=)` is the same function under each:
#
# - `jax.pmap`: one device for each member;
# - `jax.shard_map`: the same over a mesh, inside `jit`;
# - `jax.vmap`: all members on one device, as a simulated cluster.
#
# This notebook trains with `pmap` on eight devices. On a laptop they are virtual.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)  # before JAX finds its devices; no effect on accelerators

import gdjax as gd  # noqa: E402

plt.rcParams |= {"figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True}
N = jax.local_device_count()

problem = gd.problems.digits()
images, labels = map(np.asarray, problem.train)
start = problem.init(jax.random.key(0))
tx = gd.adamw(gd.warmup_cosine(1e-2, 20, 300))
print(f"{N} devices, {len(images)} images")


# %% [markdown]
# ## Train with pmap
#
# `gd.replicate` puts a copy of the state on every device, along a new first axis that `pmap` maps over. The batch has
# such an axis too. The state is donated: each step writes into the buffers of the one before. `float` waits for a step
# before the next one is dispatched. Virtual devices share the threads of one processor, and steps that pile up there
# can block an all-reduce forever, because its last member gets no thread.


# %%
def batches(steps, size=128, seed=0):
    """Yield batches in N shards."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(images), (N, size // N), replace=False)
        yield images[rows], labels[rows]


step = jax.pmap(gd.make_step(problem.loss, tx, axis_name="data"), axis_name="data", donate_argnums=0)
state = gd.replicate(gd.State.create(start, tx))
losses = []
for batch in batches(300):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"][0]))  # the mean over the members, equal on all

trained = gd.unreplicate(state)
accuracy = problem.metrics["accuracy"](trained.params, problem.held_out)
print(f"after {trained.count} steps: loss {losses[-1]:.4f}, held-out accuracy {accuracy:.4f}")

# %% [markdown]
# ## The same on a simulated cluster
#
# `vmap` with an axis name runs the same step with all members on one device. The results are equal up to float32
# rounding, so you can try an algorithm for 64 machines on one.

# %%
simulated = jax.jit(jax.vmap(gd.make_step(problem.loss, tx, axis_name="data"), axis_name="data"))
cluster = jax.tree.map(lambda x: jnp.stack([x] * N), gd.State.create(start, tx))
again = []
for batch in batches(300):
    cluster, metrics = simulated(cluster, batch)
    again.append(float(metrics["loss"][0]))

print(f"largest difference of the losses: {np.abs(np.array(again) - np.array(losses)).max():.1e}")

# %% [markdown]
# ## Shard the optimizer state
#
# The moments of Adam take twice the memory of the parameters, on every device. `gd.shard_update` shards them: each
# member averages, updates and keeps $1/N$ of every leaf, and the updates are gathered. `init` then runs on the members
# too.

# %%
sharded = gd.shard_update(tx, "data")
init_state = jax.pmap(lambda params: gd.State.create(params, sharded), axis_name="data")
sharded_state = init_state(gd.replicate(start))
mu = sharded_state.opt_state[0].mu["hidden"]["kernel"]
print(f"of the moments of a kernel {start['hidden']['kernel'].shape}, each device keeps {mu.shape[1:]}")

sharded_step = jax.pmap(gd.make_step(problem.loss, sharded, axis_name="data"), axis_name="data", donate_argnums=0)
sharded_losses = []
for batch in batches(300):
    sharded_state, metrics = sharded_step(sharded_state, batch)
    sharded_losses.append(float(metrics["loss"][0]))

# %% [markdown]
# ## Communicate less often
#
# With `gd.local_steps` each member takes $H$ local steps before all synchronize: one message instead of $H$. In
# between, each member has a different loss. Keep `anchor`, the parameters at the last synchronization.

# %%
local = gd.local_steps(tx, gd.sgd(0.7, momentum=0.9, nesterov=True), every=15, axis_name="data")  # DiLoCo
local_state = jax.pmap(lambda params: gd.State.create(params, local), axis_name="data")(gd.replicate(start))
local_step = jax.pmap(gd.make_step(problem.loss, local, axis_name="data"), axis_name="data", donate_argnums=0)
local_losses = []
for batch in batches(300):
    local_state, metrics = local_step(local_state, batch)
    local_losses.append(float(metrics["loss"].mean()))

anchor = gd.unreplicate(local_state.opt_state.anchor)
local_accuracy = problem.metrics["accuracy"](anchor, problem.held_out)
print(f"20 messages for 300 steps: held-out accuracy {local_accuracy:.4f}")

# %%
figure, axis = plt.subplots()
axis.semilogy(losses, color="black", lw=1.5, label="synchronous, by pmap")
axis.semilogy(sharded_losses, color="#E69F00", lw=1.0, ls="--", label="the same, state divided")
axis.semilogy(local_losses, color="#0072B2", lw=1.0, label="together once in 15 steps")
axis.set(xlabel="step", ylabel="training loss, nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Traps
#
# - **Counters have no axis to map over.** `pmap` needs a first axis on every argument, and the count of an optimizer
#   has shape `()`. `gd.replicate` adds the axis, to keys as well.
# - **`out_axes=None`** of `pmap` returns one copy without the axis. `gd.unreplicate` refuses arrays without it, instead
#   of taking the first row of your parameters for a copy.
# - **Gradients under `shard_map(check_vma=True)`** of replicated parameters are already *summed* over the axis: their
#   `pmean` is $N$ times too large, without an error. `make_step(axis_name=)` handles this, and `gd.mean_over` refuses
#   them.
# - **Keys**: the key of a step is folded with the index of the member, so dropout differs between devices.
# - **The last batch** may not fill all shards: pad it, mask the loss, and give `make_step` the number of real examples
#   of each member, `weight=lambda batch: batch["mask"].sum()`.

# %%
try:
    gd.unreplicate({"count": jnp.zeros((), jnp.int32)})
except ValueError as error:
    print(error)

assert accuracy > 0.96
assert local_accuracy > 0.95
assert np.abs(np.array(again) - np.array(losses)).max() < 1e-3
assert np.abs(np.array(sharded_losses) - np.array(losses)).max() < 1e-3
