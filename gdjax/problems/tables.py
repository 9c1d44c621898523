r"""Tables that scikit-learn brings along: a regression and a classification."""

import functools

import jax.numpy as jnp
import numpy as np
import optax

from gdjax.problems.base import Parts, problem
from gdjax.problems.bundled import Split, bundled, split, standardised
from gdjax.value import NonNegative


@problem
def regression():
    r"""Tell how diabetes progressed within a year from ten measurements of 442 patients: linear regression.

    $f(w, b) = \frac{1}{2 n} \sum_i (w^\top x_i + b - y_i)^2$ from zeros; the 353 rows of $x$ and $y$ have mean 0 and
    variance 1, and the 89 held out, every fifth, go by the same means and variances. The optimum is that of least
    squares. `rmse` is in the units of the table, in which $y$ deviates by 78.

    Source: Efron, Hastie, Johnstone and Tibshirani 2004, section 1 (https://arxiv.org/abs/math/0406456).

    >>> import jax, gdjax as gd
    >>> p = gd.problems.regression()
    >>> p.train[0].shape, p.held_out[0].shape
    ((353, 10), (89, 10))
    """

    def predicted(params, inputs):
        return inputs @ params["weights"] + params["bias"]

    def loss(params, batch):
        inputs, outputs = batch
        return 0.5 * jnp.mean((predicted(params, inputs) - outputs) ** 2)

    def rmse(params, batch):
        return jnp.sqrt(2 * loss(params, batch)) * _deviation()

    def minimizer():
        inputs, outputs = (x.astype(float) for x in _diabetes().train)
        with_bias = np.column_stack([inputs, np.ones(len(inputs))])
        *weights, bias = np.linalg.lstsq(with_bias, outputs)[0]
        return {"weights": np.array(weights), "bias": bias}

    def optimum():
        inputs, outputs = (x.astype(float) for x in _diabetes().train)
        return 0.5 * float(np.mean((predicted(minimizer(), inputs) - outputs) ** 2))

    return Parts(
        init=lambda key: {"weights": jnp.zeros(10), "bias": jnp.zeros(())},
        loss=loss,
        train=lambda: _diabetes().train,
        held_out=lambda: _diabetes().held_out,
        metrics={"rmse": rmse},
        optimum=optimum,
        minimizer=minimizer,
        target="rmse<58",
        optimizer="sgd(0.1)",
        steps=200,
    )


@problem
def classification(l2: NonNegative = 1e-3):
    r"""Tell benign tumours of the breast from malignant ones by thirty measurements: logistic regression.

    $f(w, b) = \frac{1}{n} \sum_i \log(1 + \exp(-s_i (w^\top x_i + b))) + \frac{\lambda}{2} \|w\|^2$ from zeros, $s_i$
    being 1 or -1; $x$ is scaled as in `regression`. Every fifth of 569 rows is held out.

    Source: Street, Wolberg and Mangasarian 1993 (https://doi.org/10.1117/12.148698).

    Args:
      l2: $\lambda$, in [0, inf); without it the loss has no least, as a plane parts the training rows.

    >>> import jax, gdjax as gd
    >>> p = gd.problems.classification()
    >>> print(f"{p.loss(p.init(jax.random.key(0)), p.train):.4f}")
    0.6931
    """

    def logits(params, inputs):
        return inputs @ params["weights"] + params["bias"]

    def loss(params, batch):
        inputs, labels = batch
        cross_entropy = optax.sigmoid_binary_cross_entropy(logits(params, inputs), labels).mean()
        return cross_entropy + 0.5 * l2 * (params["weights"] ** 2).sum()

    def accuracy(params, batch):
        inputs, labels = batch
        return jnp.mean((logits(params, inputs) > 0) == (labels > 0))

    return Parts(
        init=lambda key: {"weights": jnp.zeros(30), "bias": jnp.zeros(())},
        loss=loss,
        train=lambda: _tumours().train,
        held_out=lambda: _tumours().held_out,
        metrics={"accuracy": accuracy},
        target="accuracy>0.95",
        optimizer="sgd(0.1, momentum=0.9)",
        batch_size=32,
        epochs=20,
    )


@functools.cache
def _diabetes() -> Split:
    return split(*(standardised(rows).astype(np.float32) for rows in bundled("diabetes")))


@functools.cache
def _deviation() -> float:
    """Of the outputs, by which they were divided."""
    _, outputs = bundled("diabetes")
    return float(split(outputs).train[0].std())


@functools.cache
def _tumours() -> Split:
    inputs, benign = bundled("breast_cancer")
    return split(standardised(inputs).astype(np.float32), benign.astype(np.float32))
