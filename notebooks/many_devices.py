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
# Data parallelism: $N$ members hold the same parameters, each looks at its own part of the batch, and all step down the
# mean of their gradients. JAX has three ways to name such members, and a step that `gd.make_step(..., axis_name=)` made
# is the same function under each:
#
# - `jax.pmap`: one device for each member;
# - `jax.shard_map`: the same over a mesh, inside of `jit`;
# - `jax.vmap`: all members inside one device, a cluster simulated.
#
# This notebook trains by `pmap` on eight devices, which on a laptop are virtual ones.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

jax.config.update("jax_num_cpu_devices", 8)  # before JAX looks for devices; has no effect on accelerators

import gdjax as gd  # noqa: E402

plt.rcParams |= {"figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True}
N = jax.local_device_count()

problem = gd.problems.digits()
images, labels = map(np.asarray, problem.train)
start = problem.init(jax.random.key(0))
tx = gd.adamw(gd.warmup_cosine(1e-2, 20, 300))
print(f"{N} devices, {len(images)} images")


# %% [markdown]
# ## Train by pmap
#
# `gd.replicate` puts a copy of the whole state on every device, along a new first axis that `pmap` maps over. The batch
# gets such an axis too, by `reshape`. The state is donated: each step writes into the buffers of the one before.
# `float` waits for a step before the next is dispatched: virtual devices share the threads of one processor, and steps
# that pile up there can leave an all-reduce without the last of its members, for ever.


# %%
def batches(steps, size=128, seed=0):
    """Batches in N parts."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        rows = rng.choice(len(images), (N, size // N), replace=False)
        yield images[rows], labels[rows]


step = jax.pmap(gd.make_step(problem.loss, tx, axis_name="data"), axis_name="data", donate_argnums=0)
state = gd.replicate(gd.State.create(start, tx))
losses = []
for batch in batches(300):
    state, metrics = step(state, batch)
    losses.append(float(metrics["loss"][0]))  # the mean over the members: the same on all

trained = gd.unreplicate(state)
accuracy = problem.metrics["accuracy"](trained.params, problem.held_out)
print(f"after {trained.count} steps: loss {losses[-1]:.4f}, held-out accuracy {accuracy:.4f}")

# %% [markdown]
# ## The same on a simulated cluster
#
# `vmap` with an axis name runs the very same step with all members inside one device. What comes out is the same to the
# rounding of float32: an algorithm for 64 machines can be tried on one.

# %%
simulated = jax.jit(jax.vmap(gd.make_step(problem.loss, tx, axis_name="data"), axis_name="data"))
cluster = jax.tree.map(lambda x: jnp.stack([x] * N), gd.State.create(start, tx))
again = []
for batch in batches(300):
    cluster, metrics = simulated(cluster, batch)
    again.append(float(metrics["loss"][0]))

print(f"largest difference of the losses: {np.abs(np.array(again) - np.array(losses)).max():.1e}")

# %% [markdown]
# ## Each member keeps a part of the optimizer's state
#
# Adam's moments are twice the parameters, on every device. `gd.shard_update` divides them: each member averages,
# updates and keeps $1/N$ of every leaf, and the updates are gathered. `init` then runs on the members too.

# %%
sharded = gd.shard_update(tx, "data")
begin = jax.pmap(lambda params: gd.State.create(params, sharded), axis_name="data")
parted = begin(gd.replicate(start))
mu = parted.opt_state[0].mu["hidden"]["kernel"]
print(f"of the moments of a kernel {start['hidden']['kernel'].shape}, each device keeps {mu.shape[1:]}")

step_parted = jax.pmap(gd.make_step(problem.loss, sharded, axis_name="data"), axis_name="data", donate_argnums=0)
divided = []
for batch in batches(300):
    parted, metrics = step_parted(parted, batch)
    divided.append(float(metrics["loss"][0]))

# %% [markdown]
# ## Speak less often
#
# `gd.local_steps` lets each member go its own way and brings them together every $H$ steps: one message in the place of
# $H$. Between these the losses are each member's own; what to keep is `anchor`, where all were together last.

# %%
local = gd.local_steps(tx, gd.sgd(0.7, momentum=0.9, nesterov=True), every=15, axis_name="data")  # DiLoCo
apart = jax.pmap(lambda params: gd.State.create(params, local), axis_name="data")(gd.replicate(start))
step_apart = jax.pmap(gd.make_step(problem.loss, local, axis_name="data"), axis_name="data", donate_argnums=0)
seldom = []
for batch in batches(300):
    apart, metrics = step_apart(apart, batch)
    seldom.append(float(metrics["loss"].mean()))

anchor = gd.unreplicate(apart.opt_state.anchor)
accuracy_apart = problem.metrics["accuracy"](anchor, problem.held_out)
print(f"20 messages for 300 steps: held-out accuracy {accuracy_apart:.4f}")

# %%
figure, axis = plt.subplots()
axis.semilogy(losses, color="black", lw=1.5, label="synchronous, by pmap")
axis.semilogy(divided, color="#E69F00", lw=1.0, ls="--", label="the same, state divided")
axis.semilogy(seldom, color="#0072B2", lw=1.0, label="together once in 15 steps")
axis.set(xlabel="step", ylabel="training loss, nats")
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## Traps
#
# - **Counters have no axis to map over.** `pmap` wants a first axis on every argument; an optimizer's count has shape
#   `()`. `gd.replicate` gives it one, as it does keys.
# - **`out_axes=None`** of `pmap` returns one copy and no axis: `gd.unreplicate` refuses what has none, rather than take
#   the first row of your parameters for a copy.
# - **The gradient under `shard_map(check_vma=True)`** of parameters that all share is the *sum* over the axis already:
#   a `pmean` of it is $N$ times too large, and no error. `make_step(axis_name=)` takes care of it, and `gd.mean_over`
#   refuses it.
# - **Keys**: the key of a step is folded with the member's place, so that dropout differs from device to device.
# - **The last batch** may not fill all parts: fill it up, mask the loss, and give `make_step` the number of true
#   examples of each member, `weight=lambda batch: batch["mask"].sum()`.

# %%
try:
    gd.unreplicate({"count": jnp.zeros((), jnp.int32)})
except ValueError as error:
    print(error)

assert accuracy > 0.96
assert accuracy_apart > 0.95
assert np.abs(np.array(again) - np.array(losses)).max() < 1e-3
assert np.abs(np.array(divided) - np.array(losses)).max() < 1e-3
