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
# # Batch, stochastic, mini-batch
#
# A loss on data is a mean over $N$ examples, $f(\theta) = \frac{1}{N} \sum_i f_i(\theta)$, and so is its gradient. A
# step may use all examples, or only some:
#
# - **full-batch**: all $N$. The gradient is exact.
# - **stochastic**: one. The gradient is right on average, but each single one has an error.
# - **mini-batch**: $n$ of them, such as 32.
#
# What do fewer examples cost, and what do they save?

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

import gdjax as gd

plt.rcParams |= {"figure.figsize": (7.5, 3.6), "figure.dpi": 100, "figure.constrained_layout.use": True}
# (name, colour, line, width) by batch size; the full batch is drawn last, because it is the smoothest
LOOKS = {
    1: ("stochastic, 1", "#E69F00", "-", 0.8),
    32: ("mini-batch, 32", "#0072B2", "-", 1.2),
    "full": ("full batch", "black", "--", 1.5),
}

# %% [markdown]
# ## The data
#
# Ten measurements of 442 patients, and the progress of their diabetes within a year. 353 patients are for training. The
# model is linear, and the loss is half the mean squared error. Linear algebra gives its minimum, so we can draw the
# **gap**: the difference between the loss on all training data and the minimum.

# %%
problem = gd.problems.regression()
loss, train, start = problem.loss, problem.train, problem.init(jax.random.key(0))
examples = len(train[0])


@jax.jit
def gap(params):
    return {"gap": loss(params, train) - problem.optimum}


print(f"{examples} examples; at the start the loss is {loss(start, train):.3f}, the least is {problem.optimum:.3f}")

# %% [markdown]
# ## The noise of a gradient
#
# Let $g_i$ be the gradient of example $i$, and $g$ their mean. The noise of one example is the mean squared distance
# from $g$, $\sigma^2 = \frac{1}{N} \sum_i \|g_i - g\|^2$. The mean of $n$ different examples, drawn at random, has the
# noise
#
# $$\mathbb{E}\, \|g_{\text{batch}} - g\|^2 = \frac{\sigma^2}{n} \cdot \frac{N - n}{N - 1}.$$
#
# The first factor is the law to remember: **ten times the examples, a tenth of the noise**. The second is there because
# no example is drawn twice. It is near 1 for small batches, and 0 for the full one. We measure 2,000 batches of each
# size.

# %%
one_by_one = jax.vmap(jax.grad(loss), in_axes=(None, 0))


def gradients(params):
    """Return the gradient of every example, one per row."""
    tree = one_by_one(params, jax.tree.map(lambda x: x[:, None], train))
    return np.column_stack([tree["weights"], tree["bias"]])


def noise_of_one(params):
    g = gradients(params)
    return ((g - g.mean(0)) ** 2).sum(1).mean()


g = gradients(start)
random = np.random.default_rng(0)
sizes = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256, 320])
measured = []
for n in sizes:
    batches = [g[random.choice(examples, n, replace=False)].mean(0) for _ in range(2_000)]
    measured.append(((np.array(batches) - g.mean(0)) ** 2).sum(1).mean())

formula = noise_of_one(start) / sizes * (examples - sizes) / (examples - 1)
for n, found, expected in zip(sizes, measured, formula, strict=True):
    print(f"n = {n:3d}: measured {found:.4f}, by the formula {expected:.4f}")

# %%
n = np.linspace(1, examples - 1, 2_000)
figure, axes = plt.subplots()
axes.loglog(n, noise_of_one(start) / n, color="0.55", linestyle=":", linewidth=2, label=r"$\sigma^2 / n$")
axes.loglog(
    n,
    noise_of_one(start) / n * (examples - n) / (examples - 1),
    color="#0072B2",
    label=r"$\frac{\sigma^2}{n} \cdot \frac{N - n}{N - 1}$",
)
axes.loglog(sizes, measured, "o", color="black", markersize=5, label="measured, 2,000 batches each")
axes.set(xlabel="examples in a batch, $n$", ylabel="squared error of the gradient", title="The noise falls as 1/n")
axes.set_ylim(1e-3, 20)
axes.legend(loc="lower left", frameon=False)
plt.show()

# %% [markdown]
# ## What noise does to a descent
#
# All three use the same rate, 0.02. At first all losses fall, because the gradient is large compared with its noise.
# Near the minimum the gradient vanishes, and the noise does not. The stochastic descent stays at a **floor**, where a
# step loses as much as it gains. The floor of the mini-batch is far lower.
#
# For a small rate $\eta$ and independently drawn batches, the floor is about
#
# $$\text{gap} \approx \frac{\eta\, \sigma^2}{4 n},$$
#
# with $\sigma^2$ at the minimum. `gd.fit` visits every example once per epoch, in a new random order, so some of the
# noise cancels within an epoch. That lowers the floor; the smaller the rate, the larger the effect.


# %%
def descend(rate, batch_size):
    return gd.fit(
        loss,
        start,
        gd.sgd(rate),
        train,
        batch_size=batch_size,
        steps=20_000,
        evaluate=gd.Evaluate(gap, every=20),
        key=1,
        progress=False,
    )


def floor(fit):
    """Return the mean gap in the second half of a descent."""
    gaps = fit.history.evaluations["gap"]
    return gaps[len(gaps) // 2 :].mean()


fits = {size: descend(0.02, size) for size in LOOKS}
predicted = 0.02 * noise_of_one(problem.minimizer) / 4
print(f"stochastic: {floor(fits[1]):.5f}; by the formula {predicted:.5f}")
print(f"mini-batch: {floor(fits[32]):.5f}; full batch: {floor(fits['full']):.5f}")

# %% [markdown]
# ## What a decaying rate does to the floor
#
# A smaller rate has a lower floor, but needs more steps to reach it. A rate that **decays** combines both: large steps
# while the gradient is large, and small ones when mostly noise is left. A schedule is a function of the step count. We
# write our own, $\eta_t = \eta_0 / (1 + t / \tau)$:


# %%
@gd.schedule
def inverse_time(peak: gd.Positive, timescale: gd.Positive):
    return lambda count: peak / (1 + count / timescale)


decaying = inverse_time(0.02, 1_000.0)
by_rate = {
    "constant, 0.02": (fits[1], "#E69F00"),
    "constant, 0.005": (descend(0.005, 1), "#0072B2"),
    "decaying from 0.02": (descend(decaying, 1), "black"),
}
print(f"rate at steps 0, 1,000 and 20,000: {decaying(0):.4f}, {decaying(1_000):.4f}, {decaying(20_000):.4f}")
for name, (fit, _) in by_rate.items():
    print(f"{name:>18}: mean gap of steps 10,000 to 20,000 {floor(fit):.5f}")

# %%
shown = np.unique(np.geomspace(1, 1_000, 150).astype(int))  # evaluations, evenly spaced on a logarithmic axis
figure, (left, right) = plt.subplots(1, 2, sharey=True)
for size, fit in fits.items():
    name, color, style, width = LOOKS[size]
    seen = fit.history.evaluations
    left.loglog(seen["step"][shown], seen["gap"][shown], color=color, linestyle=style, linewidth=width, label=name)
left.axhline(predicted, color="0.45", linestyle=":", label=r"$\eta \sigma^2 / 4$")
for name, (fit, color) in by_rate.items():
    seen = fit.history.evaluations
    right.loglog(seen["step"][shown], seen["gap"][shown], color=color, linewidth=1, label=name)
left.set(xlabel="steps", ylabel="gap to the least loss", title="Three sizes of batch, rate 0.02")
right.set(xlabel="steps", title="One example a step, three rates")
for axes in (left, right):
    axes.legend(loc="lower left", frameon=False)
    axes.set_ylim(1e-5, 0.3)
plt.show()

# %% [markdown]
# ## What a step costs
#
# That is what fewer examples lose. What they save is time, which takes more data to show: 1,437 images of handwritten
# digits, and a network of 4,810 weights. How long does a step take? `throughput` in the history is the number of
# examples per second, without compilation. Its largest value is the one that other programs disturbed the least.

# %%
problem = gd.problems.digits(hidden=64)
loss, train, start = problem.loss, problem.train, problem.init(jax.random.key(0))
batch = {1: 1, 32: 32, "full": len(train[0])}
rate = {1: 0.05, 32: 0.5, "full": 1.0}
steps = {1: 20_000, 32: 4_500, "full": 300}


def digits(size, evaluate=None):
    tx = gd.sgd(rate[size])
    return gd.fit(loss, start, tx, train, batch_size=size, steps=steps[size], evaluate=evaluate, key=1, progress=False)


seconds = {size: batch[size] / np.nanmax(digits(size).history["throughput"]) for size in batch}
for size in batch:
    print(
        f"{LOOKS[size][0]:>15}: {1e6 * seconds[size]:6.1f} microseconds a step, "
        f"{1e6 * seconds[size] / batch[size]:5.2f} an example"
    )

# %% [markdown]
# A step of 32 examples takes longer than a step of one, but far less than 32 times as long. A processor handles many
# numbers at once faster than one after another, and much of the work of a step does not depend on the batch size.
#
# ## Steps, examples, seconds
#
# Noise also limits the rate: the less noise, the larger the rate at which a descent is stable. So each of the three has
# a suitable rate here: 0.05, 0.5 and 1. The loss is over all training images, every 100, 20 and 2 steps.


# %%
@jax.jit
def evaluate(params):
    return {"train": loss(params, train), "accuracy": problem.metrics["accuracy"](params, problem.held_out)}


seen = {
    size: digits(size, gd.Evaluate(evaluate, every=every)).history.evaluations
    for size, every in {1: 100, 32: 20, "full": 2}.items()
}

# %%
figure, panels = plt.subplots(1, 3, sharey=True)
for size in batch:
    name, color, style, width = LOOKS[size]
    for axes, unit in zip(panels, (1, batch[size], seconds[size]), strict=True):
        look = {"color": color, "linestyle": style, "linewidth": width, "label": name}
        axes.loglog(seen[size]["step"][1:] * unit, seen[size]["train"][1:], **look)
panels[0].set(xlabel="steps", ylabel="loss on all training images")
panels[1].set(xlabel="examples seen")
panels[2].set(xlabel="seconds")
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
plt.show()

# %% [markdown]
# - **By steps** the full batch is the best: its steps are the largest, and have no noise.
# - **By examples** one at a time is the best: the same images give 1,437 steps instead of one.
# - **By seconds** the mini-batch is the best: it takes many steps per second, and large ones.
#
# In numbers, after 300 steps, after 20,000 examples, and after the time of 100 full-batch steps:


# %%
def reached(size, amount, unit):
    """Return the loss at the last evaluation before an amount is spent."""
    return seen[size]["train"][np.searchsorted(seen[size]["step"] * unit, amount, side="right") - 1]


table = {
    "300 steps": {size: reached(size, 300, 1) for size in batch},
    "20,000 examples": {size: reached(size, 20_000, batch[size]) for size in batch},
    "time of 100 full steps": {size: reached(size, 100 * seconds["full"], seconds[size]) for size in batch},
}
print(f"{'loss after':>22}", *(f"{LOOKS[size][0]:>15}" for size in batch))
for name, row in table.items():
    print(f"{name:>22}", *(f"{row[size]:15.3f}" for size in batch))

# %% [markdown]
# No size is right for all problems. With little data, as in the table of patients, the full batch costs little more
# than one example. With millions of examples, a full batch takes too long. In between, a rule of thumb is the largest
# batch whose step takes little longer than that of a smaller one.

# %%
assert np.allclose(measured, formula, rtol=0.1)
assert 0.6 * predicted < floor(fits[1]) < 1.3 * predicted
assert floor(fits["full"]) < floor(fits[32]) < 0.02 * floor(fits[1])
floors = [floor(fit) for fit, _ in by_rate.values()]
assert 4 * floors[1] < floors[0]
assert 2 * floors[2] < floors[1]
steps_row, examples_row, _ = table.values()  # the time of a step depends on the machine
assert steps_row["full"] < steps_row[32] < steps_row[1]
assert examples_row[1] < examples_row[32] < examples_row["full"]
