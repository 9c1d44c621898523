r"""Linear and logistic regression on tables bundled with scikit-learn."""

import functools

import jax.numpy as jnp
import numpy as np
import optax

from gdjax.problems.base import Parts, problem
from gdjax.problems.bundled import Split, load_sklearn, split_rows, standardize
from gdjax.value import NonNegative


@problem
def regression():
    r"""Predict the progress of diabetes from ten measurements of 442 patients, by linear regression.

    $f(w, b) = \frac{1}{2 n} \sum_i (w^\top x_i + b - y_i)^2$, starting at zeros. The 353 training rows of $x$ and $y$
    have mean 0 and variance 1. Every fifth row, 89 in all, is held out and scaled by the same means and variances. The
    optimum is the least-squares solution. `rmse` is in the units of the table, where $y$ has standard deviation 78.

    Source: Efron, Hastie, Johnstone and Tibshirani 2004, section 1 (https://arxiv.org/abs/math/0406456).

    >>> import jax, gdjax as gd
    >>> p = gd.problems.regression()
    >>> p.train[0].shape, p.held_out[0].shape
    ((353, 10), (89, 10))
    """

    def predict(params, inputs):
        return inputs @ params["weights"] + params["bias"]

    def loss(params, batch):
        inputs, outputs = batch
        return 0.5 * jnp.mean((predict(params, inputs) - outputs) ** 2)

    def rmse(params, batch):
        return jnp.sqrt(2 * loss(params, batch)) * _output_deviation()

    def minimizer():
        inputs, outputs = (x.astype(float) for x in _load_diabetes().train)
        with_bias = np.column_stack([inputs, np.ones(len(inputs))])
        *weights, bias = np.linalg.lstsq(with_bias, outputs)[0]
        return {"weights": np.array(weights), "bias": bias}

    def optimum():
        inputs, outputs = (x.astype(float) for x in _load_diabetes().train)
        return 0.5 * float(np.mean((predict(minimizer(), inputs) - outputs) ** 2))

    return Parts(
        init=lambda key: {"weights": jnp.zeros(10), "bias": jnp.zeros(())},
        loss=loss,
        train=lambda: _load_diabetes().train,
        held_out=lambda: _load_diabetes().held_out,
        metrics={"rmse": rmse},
        optimum=optimum,
        minimizer=minimizer,
        target="rmse<58",
        optimizer="sgd(0.1)",
        steps=200,
    )


@problem
def classification(l2: NonNegative = 1e-3):
    r"""Classify breast tumors as benign or malignant from thirty measurements, by logistic regression.

    $f(w, b) = \frac{1}{n} \sum_i \log(1 + \exp(-s_i (w^\top x_i + b))) + \frac{\lambda}{2} \|w\|^2$, starting at zeros,
    where $s_i$ is 1 or -1. $x$ is scaled as in `regression`. Every fifth of 569 rows is held out.

    Source: Street, Wolberg and Mangasarian 1993 (https://doi.org/10.1117/12.148698).

    Args:
      l2: $\lambda$, in [0, inf). At 0 the loss has no minimum, since a plane separates the training rows.

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
        train=lambda: _load_tumors().train,
        held_out=lambda: _load_tumors().held_out,
        metrics={"accuracy": accuracy},
        target="accuracy>0.95",
        optimizer="sgd(0.1, momentum=0.9)",
        batch_size=32,
        epochs=20,
    )


@functools.cache
def _load_diabetes() -> Split:
    return split_rows(*(standardize(rows).astype(np.float32) for rows in load_sklearn("diabetes")))


@functools.cache
def _output_deviation() -> float:
    """Return the standard deviation that divided the outputs."""
    _, outputs = load_sklearn("diabetes")
    return float(split_rows(outputs).train[0].std())


@functools.cache
def _load_tumors() -> Split:
    inputs, benign = load_sklearn("breast_cancer")
    return split_rows(standardize(inputs).astype(np.float32), benign.astype(np.float32))
