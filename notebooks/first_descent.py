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
# # First descent
#
# Gradient descent searches for the minimum of a function: it measures the slope, takes a step downhill, and repeats.
# Here it searches for the minimum of a parabola of one weight,
#
# $$f(w) = (w - 2)^2,$$
#
# from $w_0 = 5$ with the learning rate $\eta = 0.1$. We do it by hand, with `jax.grad`, with `gd.sgd` and with
# `gd.fit`. The numbers are the same each time.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

import gdjax as gd

plt.rcParams |= {"figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True}
BLACK, BLUE, ORANGE, RED = "black", "#0072B2", "#E69F00", "#D55E00"

# %% [markdown]
# ## By hand
#
# The slope of $f$ is its derivative, $f'(w) = 2 (w - 2)$. A step goes in the opposite direction:
#
# $$w_{k+1} = w_k - \eta f'(w_k).$$
#
# At $w_0 = 5$ the slope is $2 \cdot 3 = 6$, so the next weight is $5 - 0.1 \cdot 6 = 4.4$.

# %%
w = 5.0
by_hand = [w]
for k in range(5):
    gradient = 2 * (w - 2)
    print(f"step {k}: weight {w:.4f}, loss {(w - 2) ** 2:.4f}, gradient {gradient:.4f}")
    w = w - 0.1 * gradient
    by_hand.append(w)

# %% [markdown]
# The steps become shorter by themselves, because the slope becomes smaller: at the minimum it is 0.
#
# ## With `jax.grad`
#
# JAX differentiates the function for us. Nothing else changes.


# %%
def f(w):
    return (w - 2) ** 2


w = 5.0
by_grad = [w]
for _ in range(5):
    w = w - 0.1 * jax.grad(f)(w)
    by_grad.append(w)

print(f"gradient at 5: {jax.grad(f)(5.0)}")
print("weights:", *(f"{float(w):.4f}" for w in by_grad))

# %% [markdown]
# ## With an optimizer
#
# An optimizer turns gradients into updates. Plain gradient descent is `gd.sgd`: its update is $-\eta$ times the
# gradient. `init` makes the state of the optimizer (`sgd` without momentum has none), `update` returns the updates, and
# `apply_updates` adds them to the weights. Every optimizer of gdjax fits into the same four lines.

# %%
tx = gd.sgd(0.1)
w = jnp.asarray(5.0)
state = tx.init(w)
by_optimizer = [w]
for _ in range(5):
    updates, state = tx.update(jax.grad(f)(w), state, w)
    w = gd.apply_updates(w, updates)
    by_optimizer.append(w)

print("weights:", *(f"{float(w):.4f}" for w in by_optimizer))

# %% [markdown]
# ## With `gd.fit`
#
# `gd.fit` is the whole loop. It takes a loss of the weights and a batch of data; here there is no data, and the batch
# is `None`. The history also records what the loss returns in addition to its value: here the weight.


# %%
def loss(w, batch):
    return (w - 2) ** 2, {"weight": w}


fit = gd.fit(loss, 5.0, gd.sgd(0.1), steps=40, progress=False)
fit

# %%
for name in ("step", "weight", "loss", "grad_norm", "learning_rate"):
    print(f"{name:>13}", *(f"{x:8.4g}" for x in fit.history[name][:6]))

# %% [markdown]
# The path on the curve: the length of every step is 0.1 times the slope at its start.

# %%
weights = fit.history["weight"]
curve = np.linspace(0.5, 5.5, 200)
figure, axes = plt.subplots()
axes.plot(curve, f(curve), color="0.7", linewidth=2, label="$f(w) = (w - 2)^2$")
axes.plot(weights, f(weights), color=BLUE, marker="o", markersize=5, linewidth=1, label="descent from 5 at rate 0.1")
for k in range(4):
    at = (weights[k], f(weights[k]))
    axes.annotate(f"$w_{k}$ = {weights[k]:.4g}", at, xytext=(-8, 2), textcoords="offset points", ha="right")
axes.set(xlabel="weight $w$", ylabel="loss $f(w)$", title="Steps become shorter as the slope does")
axes.legend(loc="upper center", bbox_to_anchor=(0.35, 1.0), frameon=False)
plt.show()

# %% [markdown]
# ## The closed form
#
# How far is the minimum? Subtract 2 on both sides of the step:
#
# $$w_{k+1} - 2 = (w_k - 2) - 2 \eta (w_k - 2) = (1 - 2 \eta) (w_k - 2).$$
#
# Every step multiplies the distance by $1 - 2 \eta$. From 5 at rate 0.1 that is
#
# $$w_k = 2 + 3 \cdot 0.8^k.$$

# %%
k = np.arange(len(weights))
closed_form = 2 + 3 * 0.8**k
print(f"largest difference from the closed form in {len(k)} steps: {np.abs(weights - closed_form).max():.1e}")

# %% [markdown]
# The weights of `gd.fit` are 32-bit floating-point numbers with about seven digits, so they cannot be closer.
#
# ## The learning rate
#
# The formula gives the effect of any rate: the distance after $k$ steps is $3\, |1 - 2 \eta|^k$.
#
# | rate | $1 - 2 \eta$ | what happens |
# |---|---|---|
# | 0.01 | 0.98 | converges, but slowly |
# | 0.4 | 0.2 | converges fast: five times closer at every step |
# | 0.5 | 0 | reaches the minimum in one step |
# | 0.9 | -0.8 | oscillates, and converges as fast as 0.1 |
# | 1 | -1 | oscillates between 5 and -1 forever |
# | 1.1 | -1.2 | diverges: oscillates farther at every step |
#
# The right plot shows the distance on a logarithmic axis, where a constant factor is a straight line.

# %%
rates = {0.01: (ORANGE, "s", "--"), 0.1: (BLUE, "o", "-"), 0.4: (BLACK, "^", ":"), 1.1: (RED, "X", "-.")}
paths = {rate: gd.fit(loss, 5.0, gd.sgd(rate), steps=25, progress=False).history["weight"] for rate in rates}

# %%
figure, (left, right) = plt.subplots(1, 2)
curve = np.linspace(-4.5, 8.5, 200)
left.plot(curve, f(curve), color="0.7", linewidth=2, zorder=0)
for rate, (color, marker, style) in rates.items():
    look = {"color": color, "linestyle": style, "linewidth": 1.2, "markersize": 5}
    left.plot(paths[rate][:5], f(paths[rate][:5]), marker=marker, **look)
    right.plot(np.abs(paths[rate] - 2), marker=marker, markevery=4, label=f"rate {rate}", **look)
left.set(xlabel="weight $w$", ylabel="loss $f(w)$", title="The first four steps on the curve")
right.set(xlabel="step", ylabel="distance to the least, $|w - 2|$", title="The distance: straight lines", yscale="log")
right.set_ylim(1e-6, 1e4)
figure.legend(loc="outside lower center", ncols=4, frameon=False)
plt.show()

# %% [markdown]
# ## When it goes wrong
#
# At rate 1.1 the loss grows by the factor $1.2^2 = 1.44$ at every step, until the square of the gradient exceeds the
# range of 32-bit numbers. `gd.fit` does not take such a step. It stops and gives the reason, and the weight is still
# finite.

# %%
diverged = gd.fit(loss, 5.0, gd.sgd(1.1), steps=1_000, progress=False)
print(diverged.stopped)
print(diverged.because)

# %% [markdown]
# ## When to stop
#
# You need not guess the number of steps. `gd.stop` gives a condition: here, that the gradient is at most 0.001. By the
# closed form the gradient at step $k$ is $6 \cdot 0.8^k$, which is that small from $k = 39$ on.

# %%
enough = gd.fit(loss, 5.0, gd.sgd(0.1), stop=gd.stop.tolerance(grad_norm=1e-3), progress=False)
print(enough.because, "at step", enough.history["step"][-1])

# %%
assert f(5.0) == 9
assert jax.grad(f)(5.0) == 6
assert weights[1] == np.float32(4.4)
assert np.allclose(by_hand, closed_form[:6], rtol=1e-12)
assert np.allclose([by_grad, by_optimizer], by_hand)
assert np.allclose(weights, closed_form, atol=1e-6)
for rate, path in paths.items():
    assert np.allclose(np.abs(path - 2), 3 * np.abs(1 - 2 * rate) ** np.arange(25), rtol=1e-5, atol=1e-6)
assert gd.fit(loss, 5.0, gd.sgd(0.5), steps=1, progress=False).params == 2
assert diverged.stopped is gd.Stopped.NONFINITE
assert np.isfinite(diverged.params)
assert enough.stopped is gd.Stopped.TOLERANCE
assert enough.history["step"][-1] == 39
