"""Draw the picture of the README: `python docs/pictures/sweep.py` writes `sweep.png` beside this file.

Four optimizers descend on digits, each with 64 learning rates in one `vmap`.
"""

import pathlib

import jax
import jax.numpy as jnp
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np

import gdjax as gd

INK = "#808080"  # readable on white and on black
RATES = np.geomspace(1e-5, 1.0, 64)
EVERY, EVALUATIONS, BATCH_SIZE = 10, 30, 64
OPTIMIZERS = {
    "adam": (gd.adam, "#1E88E5"),
    "rmsprop": (gd.rmsprop, "#D81B60"),
    "lion": (gd.lion, "#00A67A"),
    "sgd, momentum 0.9": (lambda rate: gd.sgd(rate, momentum=0.9), "#E69F00"),
}


def sweep(optimizer):
    """Return the loss over all training images every 10 steps, for each learning rate."""
    problem = gd.problems.digits()
    images, labels = map(jnp.asarray, problem.train)
    rows = jax.random.randint(jax.random.key(1), (EVALUATIONS, EVERY, BATCH_SIZE), 0, len(images))

    def train(tx):
        step = gd.make_step(problem.loss, tx)

        def evaluate(state, rows):
            state, _ = jax.lax.scan(lambda state, i: step(state, (images[i], labels[i])), state, rows)
            return state, problem.loss(state.params, (images, labels))

        state = gd.State.create(problem.init(jax.random.key(0)), tx)
        return jax.lax.scan(evaluate, state, rows)[1]

    return np.asarray(jax.jit(jax.vmap(train))(gd.stack([optimizer(float(rate)) for rate in RATES])))


def draw():
    """Draw both panels."""
    plt.rcParams |= {"font.size": 12, "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK}
    plt.rcParams |= {"xtick.color": INK, "ytick.color": INK, "axes.titlecolor": INK, "axes.titlesize": 13}
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    losses = {name: sweep(optimizer) for name, (optimizer, _) in OPTIMIZERS.items()}
    steps = EVERY * np.arange(1, EVALUATIONS + 1)

    colors = mpl.cm.ScalarMappable(mpl.colors.LogNorm(RATES[0], RATES[-1]), mpl.cm.turbo)
    for rate, curve in zip(RATES, losses["adam"], strict=True):
        left.semilogy(steps, curve, color=colors.to_rgba(rate), lw=1.2)
    left.set(xlabel="step", ylabel="training loss", ylim=(5e-3, 6), title="adam: 64 learning rates, one program")
    figure.colorbar(colors, ax=left, label="learning rate").outline.set_visible(False)

    for name, (_, color) in OPTIMIZERS.items():
        right.loglog(RATES, losses[name][:, -1], color=color, lw=2.2, label=name)
    right.set(xlabel="learning rate", ylabel="training loss", ylim=(5e-3, 6), title="after 300 steps")
    right.legend(frameon=False, loc="lower left", fontsize=12)

    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_facecolor("none")
    figure.savefig(pathlib.Path(__file__).with_suffix(".png"), dpi=150, transparent=True)


if __name__ == "__main__":
    draw()
