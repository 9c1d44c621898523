"""Differentiable approximations of functions by random perturbations, by Optax's names."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from optax.perturbations import Gumbel as Gumbel
from optax.perturbations import Normal as Normal

from gdjax.fallback import stand_in
from gdjax.tree import Tree, as_dtype, path, wide

__getattr__, __dir__ = stand_in(__name__)


def make_perturbed_fun(
    fun: Callable[[Tree], Tree],
    num_samples: int = 1000,
    sigma: ArrayLike = 0.1,
    noise: Any = Gumbel(),  # noqa: B008  (it has no state)
    use_baseline: bool = True,
) -> Callable[[jax.Array, Tree], Tree]:
    """Make `x -> E[fun(x + sigma z)]`, estimated from samples of the noise `z`, with derivatives of every order.

    The derivatives are those of the score function, so that `fun` needs none. Noise and its densities are float32 or
    wider; `fun` gets the dtypes of `x`.

    Berthet et al., [Learning with differentiable perturbed optimizers](https://arxiv.org/abs/2002.08676), 2020;
    Foerster et al., [DiCE](https://arxiv.org/abs/1802.05098), 2018.

    Args:
      fun: a function from a tree of arrays to a tree of arrays.
      num_samples: how many samples are averaged, at least 1.
      sigma: the scale of the noise, above 0.
      noise: a distribution with `sample(key, shape, dtype)` and `log_prob(z)`.
      use_baseline: subtract `fun(x)` from what the score is multiplied by, for less variance.

    Returns:
      A function of a key and of the argument of `fun`.

    Raises:
      ValueError: `num_samples` or `sigma` is out of its range; when called, a leaf is not floating.

    >>> smooth = make_perturbed_fun(lambda x: jnp.sum(jnp.maximum(x, 0.0)), 1_000, 0.1)
    >>> print(jax.grad(smooth, argnums=1)(jax.random.key(0), jnp.zeros(3)).shape)
    (3,)
    """
    if num_samples < 1:
        raise ValueError(f"make_perturbed_fun: num_samples must be at least 1, got {num_samples}.")
    if isinstance(sigma, (int, float)) and not sigma > 0:
        raise ValueError(f"make_perturbed_fun: sigma must be above 0, got {sigma}.")

    def estimate(key: jax.Array, x: Tree) -> Tree:
        x = jax.tree_util.tree_map_with_path(_require_floating, x)
        baseline = fun(jax.lax.stop_gradient(x)) if use_baseline else None

        def one(key: jax.Array) -> Tree:
            drawn = _draw(key, x, noise)
            shifted = jax.tree.map(lambda x, z: as_dtype(_wide(x) + sigma * z, x.dtype), x, drawn)
            scored = jax.tree.map(lambda x, z: z + (jax.lax.stop_gradient(_wide(x)) - _wide(x)) / sigma, x, drawn)
            log_p = sum(jnp.sum(noise.log_prob(z)) for z in jax.tree.leaves(scored))
            box = jnp.exp(log_p - jax.lax.stop_gradient(log_p))
            out = jax.tree.map(lambda f: box * f, fun(jax.lax.stop_gradient(shifted)))
            return jax.tree.map(lambda f, b: f + (1 - box) * b, out, baseline) if use_baseline else out

        means = jax.tree.map(lambda f: jnp.mean(f, axis=0), jax.vmap(one)(jax.random.split(key, num_samples)))
        return jax.tree.map(lambda f, like: as_dtype(f, _floating(like.dtype)), means, jax.eval_shape(fun, x))

    return estimate


def _draw(key: jax.Array, x: Tree, noise: Any) -> Tree:
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [noise.sample(k, leaf.shape, _wide(leaf).dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def _wide(x: jax.Array) -> jax.Array:
    return as_dtype(x, wide(jnp.dtype(x.dtype)))


def _floating(dtype: Any) -> Any:
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype("float32")


def _require_floating(keys: Any, x: Any) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        name = path(keys) or "the argument"
        raise ValueError(f"make_perturbed_fun: {name} must be floating, got {jnp.result_type(x)}.")
    return jnp.asarray(x)
