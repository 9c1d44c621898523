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
# # Compose your own optimizer
#
# An optimizer is a chain of small transforms. The first takes the gradients; each of the others takes the updates of
# the one before it. The last one multiplies by minus the learning rate. Here we look into AdamW, write our own
# transform, build a chain with it, find its learning rate, and train a network.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

import gdjax as gd

plt.rcParams |= {"figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True}
OURS, THEIRS = {"color": "#0072B2"}, {"color": "#E69F00", "linestyle": "--"}

gd.expand(gd.adamw(1e-3))

# %% [markdown]
# `expand` shows the parts of a named optimizer. AdamW divides a mean of gradients by their typical size, adds a
# fraction of the weights so that they decay, and multiplies by minus the learning rate.
#
# ## Your own transform
#
# A transform is a pair of functions. `init(params)` makes its state, and `update(updates, state, params)` returns new
# updates and the new state. A decorator turns the pair into a value. This transform is close to the sign of a number,
# but keeps small numbers small:
#
# $$u = \frac{g}{|g| + s}.$$
#
# It is nearly $g / s$ if $|g|$ is far below $s$, and nearly 1 or -1 if it is far above. It stores nothing, so its state
# is empty.


# %%
@gd.transform
def soft_sign(size: gd.Positive = 1e-3):
    def init(params):
        return optax.EmptyState()

    def update(updates, state, params=None):
        return jax.tree.map(lambda g: g / (jnp.abs(g) + size), updates), state

    return init, update


updates, _ = soft_sign(0.1).update(jnp.array([-10.0, -0.1, 0.0, 0.001]), optax.EmptyState())
print(updates)

# %% [markdown]
# The annotation `gd.Positive` declares `size` as a number greater than 0. Construction checks it:

# %%
try:
    soft_sign(-1.0)
except ValueError as error:
    print(error)

# %% [markdown]
# ## The chain
#
# The chain has five parts:
#
# 1. `clip_by_global_norm` shortens a gradient that is too long, and keeps its direction;
# 2. `ema` is momentum: a running mean of gradients;
# 3. `soft_sign` is our own;
# 4. `add_decayed_weights` adds a hundredth of the weights, so that they decay; only for kernels, not biases;
# 5. `scale_by_learning_rate` follows a schedule: it rises for 50 steps, then falls to 0 along half a cosine.

# %%
STEPS = 440


def compose(peak):
    return gd.chain(
        gd.clip_by_global_norm(1.0),
        gd.ema(0.9),
        soft_sign(1e-3),
        gd.add_decayed_weights(1e-2, mask=".*kernel"),
        gd.scale_by_learning_rate(gd.warmup_cosine(peak, 50, STEPS)),
    )


tx = compose(1e-2)
tx

# %% [markdown]
# It prints as the expression that makes it, with every default. `gd.parse` reads the expression without `eval`; pass it
# your own factories. Values are equal if their expressions are, and `replace` returns a changed copy.

# %%
print(gd.parse(repr(tx), soft_sign) == tx)
print(tx.replace(peak=2e-2) == compose(2e-2))

# %% [markdown]
# ## What it will do
#
# The network for handwritten digits has two layers. `describe` shows the transforms of every leaf and the size of its
# state: here a running mean of gradients. AdamW also has a running mean of their squares.

# %%
problem = gd.problems.digits(hidden=64)
loss, train, start = problem.loss, problem.train, problem.init(jax.random.key(0))
gd.describe(tx, start)

# %%
for optimizer in (tx, gd.adamw(1e-3)):
    print(f"{gd.describe(optimizer, start).state_bytes:,} bytes")

# %% [markdown]
# ## Parts of a network
#
# `by_path` gives each part a different transform. Patterns are regular expressions for whole paths, and the first match
# wins. Here the last layer has a different learning rate, and the biases of the first layer are frozen:

# %%
parts = gd.by_path({"hidden/bias": gd.frozen(), "hidden/.*": tx, "output/.*": gd.sgd(0.1, momentum=0.9)})
gd.describe(parts, start)

# %% [markdown]
# ## Which learning rate?
#
# We try twelve. `gd.make_step` returns the pure function of one step, and `scan` takes 440 of them: 20 epochs of 22
# batches of 64. An optimizer is a value, so `gd.stack` stacks all twelve into one, and `vmap` trains twelve networks
# with it in one compiled program. AdamW gets the same schedule and the same decay.

# %%
accuracy = problem.metrics["accuracy"]


def start_of_run(seed):
    """Return the initial parameters, and the rows of every batch."""
    random = np.random.default_rng(seed)
    orders = [random.permutation(len(train[0]))[: 22 * 64] for _ in range(20)]
    return problem.init(jax.random.key(seed)), np.concatenate(orders).reshape(STEPS, 64)


def train_with(tx, start_of_run):
    """Return the training loss of the last epoch, and the held-out accuracy after it."""
    params, batches = start_of_run
    step = gd.make_step(loss, tx)

    def take(state, rows):
        state, metrics = step(state, jax.tree.map(lambda x: jnp.asarray(x)[rows], train))
        return state, metrics["loss"]

    state, losses = jax.lax.scan(take, gd.State.create(params, tx), batches)
    return losses[-22:].mean(), accuracy(state.params, problem.held_out)


def adamw(peak):
    return gd.adamw(gd.warmup_cosine(peak, 50, STEPS), weight_decay=1e-2, mask=".*kernel")


rates = np.geomspace(1e-4, 1, 12)
sweep = jax.jit(jax.vmap(train_with, in_axes=(0, None)))
swept = {
    "ours": sweep(gd.stack([compose(rate) for rate in rates]), start_of_run(0)),
    "AdamW": sweep(gd.stack([adamw(rate) for rate in rates]), start_of_run(0)),
}
best = {name: float(rates[np.argmin(losses)]) for name, (losses, _) in swept.items()}
for name, rate in best.items():
    print(f"{name}: the least loss on training images is that of rate {rate:.2g}")

# %%
figure, (left, right) = plt.subplots(1, 2)
for (name, (losses, accuracies)), look in zip(swept.items(), (OURS, THEIRS), strict=True):
    left.loglog(rates, losses, marker="o", markersize=4, label=name, **look)
    right.semilogx(rates, accuracies, marker="o", markersize=4, **look)
left.set(xlabel="peak learning rate", ylabel="loss", title="Training, mean of the last epoch")
right.set(xlabel="peak learning rate", ylabel="accuracy", title="Held out")
figure.legend(loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# With too small a rate, 440 steps are not enough; too large a rate breaks the training. The two have different best
# rates: a rate belongs to its optimizer, not to the problem alone.
#
# ## Watch the training
#
# `gd.watch` records the norms of the input and output of a transform. Around the clipping it shows how often a gradient
# was clipped. `gd.fit` puts the records into the history, under their name. A notebook displays a fit with its curves.

# %%
tx = compose(best["ours"])
watched = gd.chain(gd.watch(gd.clip_by_global_norm(1.0), name="clip"), *tx.transforms[1:])


@jax.jit
def evaluate(params):
    return {"held-out accuracy": accuracy(params, problem.held_out)}


def descend(tx):
    return gd.fit(loss, start, tx, train, batch_size=64, steps=STEPS, evaluate=evaluate, progress=False)


ours = descend(watched)
ours

# %%
into, out_of = ours.history["clip/grad_norm"], ours.history["clip/update_norm"]
clipped = into > 1
print(f"clipped: {clipped[:50].mean():.0%} of the first 50 gradients, {clipped[50:].mean():.0%} of those after")

figure, axes = plt.subplots()
axes.plot(into, color="0.6", linewidth=1, label="before clipping")
axes.plot(out_of, linewidth=1, label="after clipping", **OURS)
axes.set(xlabel="step", ylabel="norm of the gradient", title="What the clipping gets, and what it passes on")
axes.set_ylim(0)
axes.legend(loc="upper right", frameon=False)
plt.show()

# %% [markdown]
# ## Against AdamW
#
# Each uses the best rate of its sweep, with the same batches in the same order.

# %%
theirs = descend(adamw(best["AdamW"]))
theirs

# %%
figure, (left, right) = plt.subplots(1, 2)
for name, fit, look in (("ours", ours, OURS), ("AdamW", theirs, THEIRS)):
    epochs = fit.history["loss"].reshape(20, 22).mean(1)
    left.semilogy(np.arange(1, 21), epochs, label=name, **look)
    seen = fit.history.evaluations
    right.plot(seen["step"] / 22, seen["held-out accuracy"], **look)
left.set(xlabel="epoch", ylabel="training loss, mean of the epoch", title="Training", xlim=(0, 20.5))
right.set(xlabel="epoch", ylabel="accuracy", title="Held out", xlim=(0, 20.5))
right.set_ylim(0.85, 1)
figure.legend(loc="outside lower center", ncols=2, frameon=False)
plt.show()

# %% [markdown]
# Which one is better? One run cannot tell. The same function under `vmap` over starts, instead of rates, trains eight
# networks from eight initial parameters, with batches in eight orders.

# %%
repeat = jax.jit(jax.vmap(train_with, in_axes=(None, 0)))
starts = jax.tree.map(lambda *x: jnp.stack(x), *(start_of_run(seed) for seed in range(1, 9)))
repeated = {
    "ours": np.asarray(repeat(compose(best["ours"]), starts)[1]),
    "AdamW": np.asarray(repeat(adamw(best["AdamW"]), starts)[1]),
}
for name, found in repeated.items():
    print(f"{name:>5}: held-out accuracy {found.mean():.4f}, from {found.min():.4f} to {found.max():.4f}")

# %% [markdown]
# Each varies between seeds by more than the two differ. A chain of five parts, one of them written above, performs as
# well as AdamW, with half the state.

# %%
assert np.allclose(updates, [-10 / 10.1, -0.5, 0, 0.001 / 0.101])
assert gd.parse(repr(tx), soft_sign) == tx
assert compose(1e-2).replace(peak=2e-2) == compose(2e-2)
assert gd.describe(tx, start).state_bytes < 0.51 * gd.describe(adamw(1e-3), start).state_bytes
assert np.allclose(out_of, np.minimum(into, 1), rtol=1e-5)
assert clipped[:50].mean() > clipped[50:].mean()
for losses, _ in swept.values():
    assert losses.min() < 0.1 * min(losses[0], losses[-1])
for fit in (ours, theirs):
    assert fit.history.evaluations["held-out accuracy"][-1] > 0.965
means = [found.mean() for found in repeated.values()]
assert min(means) > 0.97
assert abs(means[0] - means[1]) < min(np.ptp(found) for found in repeated.values())
