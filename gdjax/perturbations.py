"""Differentiable approximations of functions by random perturbations, under Optax's names."""

from collections.abc import Callable
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import KeyPath
from jax.typing import ArrayLike, DTypeLike
from optax.perturbations import Gumbel as Gumbel
from optax.perturbations import Normal as Normal

from gdjax import exports
from gdjax.fallback import stand_in
from gdjax.tree import Tree, as_dtype, path, wide

__getattr__, __dir__ = stand_in(__name__, exports.HOME)


class NoiseDistribution(Protocol):
    """Distribution of the noise of `make_perturbed_fun`."""

    def sample(self, key: jax.Array, sample_shape: tuple[int, ...], dtype: DTypeLike, /) -> jax.Array:
        """Return independent samples."""
        ...

    def log_prob(self, inputs: jax.Array, /) -> jax.Array:
        """Return the log density, elementwise."""
        ...


def make_perturbed_fun(
    fun: Callable[[Tree], Tree],
    num_samples: int = 1000,
    sigma: ArrayLike = 0.1,
    noise: NoiseDistribution = Gumbel(),  # noqa: B008  (it has no state)
    use_baseline: bool = True,
) -> Callable[[jax.Array, Tree], Tree]:
    """Make the function `x -> E[fun(x + sigma z)]`, estimated from samples of the noise `z`.

    It has derivatives of every order. They come from the score function, so `fun` need not be differentiable. Noise
    and its log densities are float32 or wider; `fun` gets the dtypes of `x`.

    Berthet et al., [Learning with differentiable perturbed optimizers](https://arxiv.org/abs/2002.08676), 2020;
    Foerster et al., [DiCE](https://arxiv.org/abs/1802.05098), 2018.

    Args:
      fun: a function from a pytree of arrays to a pytree of arrays.
      num_samples: the number of samples to average, at least 1.
      sigma: the scale of the noise, above 0.
      noise: a distribution with `sample(key, shape, dtype)` and `log_prob(z)`.
      use_baseline: subtract `fun(x)` from the values that multiply the score, which reduces variance.

    Returns:
      A function of a PRNG key and the argument of `fun`.

    Raises:
      ValueError: `num_samples` or `sigma` is out of range, or, when called, a leaf is not floating.

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

        def sample(key: jax.Array) -> Tree:
            z = _sample_noise(key, x, noise)
            perturbed = jax.tree.map(lambda x, z: as_dtype(_upcast(x) + sigma * z, x.dtype), x, z)
            centered = jax.tree.map(lambda x, z: z + (jax.lax.stop_gradient(_upcast(x)) - _upcast(x)) / sigma, x, z)
            log_p = sum(jnp.sum(noise.log_prob(z)) for z in jax.tree.leaves(centered))
            magic_box = jnp.exp(log_p - jax.lax.stop_gradient(log_p))  # 1, with the derivatives of log_p
            out = jax.tree.map(lambda f: magic_box * f, fun(jax.lax.stop_gradient(perturbed)))
            return jax.tree.map(lambda f, b: f + (1 - magic_box) * b, out, baseline) if use_baseline else out

        means = jax.tree.map(lambda f: jnp.mean(f, axis=0), jax.vmap(sample)(jax.random.split(key, num_samples)))
        return jax.tree.map(lambda f, like: as_dtype(f, _floating_dtype(like.dtype)), means, jax.eval_shape(fun, x))

    return estimate


def _sample_noise(key: jax.Array, x: Tree, noise: NoiseDistribution) -> Tree:
    leaves, structure = jax.tree.flatten(x)
    keys = jax.random.split(key, len(leaves))
    return structure.unflatten(
        [noise.sample(k, leaf.shape, _upcast(leaf).dtype) for k, leaf in zip(keys, leaves, strict=True)]
    )


def _upcast(x: jax.Array) -> jax.Array:
    return as_dtype(x, wide(jnp.dtype(x.dtype)))


def _floating_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if jnp.issubdtype(dtype, jnp.inexact) else jnp.dtype("float32")


def _require_floating(keys: KeyPath, x: ArrayLike) -> jax.Array:
    if not jnp.issubdtype(jnp.result_type(x), jnp.floating):
        name = path(keys) or "the argument"
        raise ValueError(f"make_perturbed_fun: {name} must be floating, got {jnp.result_type(x)}.")
    return jnp.asarray(x)
