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
# # An optimizer is a value
#
# In gdjax an optimizer is a pytree of its hyperparameters. It prints as the expression that makes it, and it is an
# argument of `jit`, `vmap` and `grad` like any other. This notebook sweeps an optimizer, differentiates it, and gives
# each part of a model a different one.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt

import gdjax as gd

tx = gd.chain(gd.clip_by_global_norm(10.0), gd.adamw(gd.warmup_cosine(0.1, 10, 200)))
tx

# %%
gd.parse(repr(tx)) == tx, tx.peak, tx.replace(peak=0.2).peak

# %% [markdown]
# ## The problem
#
# A quadratic in 20 dimensions, with curvatures from 1 to 1,000.

# %%
curvature = jnp.logspace(0, 3, 20)
start = jnp.ones(20)


def loss(x):
    return 0.5 * jnp.sum(curvature * x**2)


def descend(tx, steps=200):
    """Return the loss after every step."""

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(jax.grad(loss)(x), state, x)
        return (gd.apply_updates(x, updates), state), loss(x)

    return jax.lax.scan(step, (start, tx.init(start)), length=steps)[1]


# %% [markdown]
# ## A sweep is one program
#
# We try 64 learning rates for each of two optimizers. `gd.stack` stacks many values into one, and `vmap` runs them
# together.

# %%
rates = jnp.logspace(-5, 0.5, 64)
sweep = jax.jit(jax.vmap(descend))
last = {
    "heavy ball": sweep(gd.stack([gd.sgd(rate, momentum=0.9) for rate in rates]))[:, -1],
    "Adam": sweep(gd.stack([gd.adam(rate) for rate in rates]))[:, -1],
}

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, losses in last.items():
    axes.loglog(rates, jnp.where(losses < 1e6, losses, jnp.nan), label=name)
axes.axhline(loss(start), color="grey", linewidth=0.8, linestyle=":", label="start")
axes.set(
    xlabel="learning rate",
    ylabel="loss after 200 steps",
    title="64 rates an optimizer; the heavy ball diverges above 0.003",
)
axes.legend(loc="lower left")
plt.show()

# %% [markdown]
# ## Hypergradients
#
# The derivative of the final loss with respect to the optimizer is again an optimizer. From a poor start, a few steps
# against it improve the learning rate and the momentum.

# %%
poor = gd.sgd(1e-4, momentum=0.5)
final = jax.jit(jax.value_and_grad(lambda tx: jnp.log(descend(tx)[-1])))
value, derivative = final(poor)
derivative

# %%
better = poor
for _ in range(60):
    value, derivative = final(better)
    better = better.replace(
        learning_rate=better.learning_rate * jnp.exp(-0.05 * jnp.sign(derivative.learning_rate)),
        momentum=jnp.clip(better.momentum - 0.01 * jnp.sign(derivative.momentum), 0.0, 0.95),
    )
print(f"log loss {final(poor)[0]:.2f} -> {final(better)[0]:.2f} with {better}")

# %% [markdown]
# ## One transform for each part
#
# `by_path` selects a transform by the path of a leaf, and `describe` shows the selection.

# %%
params = {
    "embedding": jnp.zeros((100, 16)),
    "layers": [{"kernel": jnp.zeros((16, 16)), "bias": jnp.zeros(16)} for _ in range(2)],
}
parts = gd.by_path({"embedding": gd.frozen(), ".*/bias": gd.sgd(0.1), ".*": gd.adamw(1e-3)})
gd.describe(parts, params)

# %%
assert gd.parse(repr(tx)) == tx
assert jnp.nanmin(last["Adam"]) < 1e-2 * loss(start)
assert jnp.nanmin(last["heavy ball"]) < 1e-2 * loss(start)
assert final(better)[0] < final(poor)[0] - 1.0
assert gd.describe(parts, params).state_bytes == 2 * 2 * 16 * 16 * 4 + 4
