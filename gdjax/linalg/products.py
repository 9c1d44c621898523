"""Matrix products and norms, at full precision or with rounded factors and wide sums."""

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gdjax import squares


def matmul(a: jax.Array, b: jax.Array, dtype: DTypeLike | None = None) -> jax.Array:
    """Return $AB$, summed in the dtype of `a`.

    Args:
      a: matrices `[..., m, k]`.
      b: matrices `[..., k, n]`.
      dtype: the dtype to round real factors to, such as `bfloat16`. By default they are not rounded, not even by the
        accelerator (TF32 turns an eigenvalue of 0.1 into -6.2).

    >>> print(matmul(jnp.eye(2), jnp.full((2, 2), 1 / 3), jnp.bfloat16)[0, 0])
    0.33398438
    """
    if dtype is None or jnp.iscomplexobj(a):
        return jnp.matmul(a, b, precision="highest")
    return jnp.matmul(a.astype(dtype), b.astype(dtype), preferred_element_type=a.dtype)


def two_sided_product(left: jax.Array | None, x: jax.Array, right: jax.Array | None) -> jax.Array:
    """Return $AXB$ for matrices $X$ `[..., m, n]`; a side that is `None` is skipped.

    >>> print(two_sided_product(None, jnp.eye(2), jnp.full((2, 2), 3.0)))
    [[3. 3.]
     [3. 3.]]
    """
    x = x if left is None else matmul(left, x)
    return x if right is None else matmul(x, right)


def gram(x: jax.Array) -> jax.Array:
    """Return the Gram matrix $XX^*$ of each matrix `[..., m, n]`.

    >>> print(gram(jnp.array([[3.0, 4.0]])))
    [[25.]]
    """
    return matmul(x, x.mT.conj())


def frobenius_norms(x: jax.Array) -> jax.Array:
    """Return the Frobenius norm of each matrix `[..., m, n]`, as `[..., 1, 1]`; its derivative at 0 is 0.

    >>> print(frobenius_norms(jnp.array([[3.0, 0.0], [0.0, 4.0]])))
    [[5.]]
    """
    return squares.scaled_norms([[x]], [[()]], [(-2, -1)])[0].norm()


def limit_norm(x: jax.Array) -> jax.Array:
    """Scale down each matrix `[..., m, n]` whose $XX^*$, or a product with it, could overflow.

    The bound on the norm is the square root of the largest float, divided by 65,536: 2.8e14 in float32. Directions
    stay the same, so methods that ignore the overall scale of the gradients are unaffected.

    >>> small = limit_norm(jnp.array([[3e30, 4e30]]))
    >>> print(f"{small[0, 0] / small[0, 1]:.4f}", bool(small.max() < 1e15))
    0.7500 True
    """
    size = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True, initial=0))
    bound = float(jnp.finfo(x.dtype).max) ** 0.5 * 2.0**-16 / max(x.shape[-2] * x.shape[-1], 1) ** 0.5
    is_large = jnp.isfinite(size) & (size > bound)
    return x * jnp.where(is_large, bound / jnp.where(is_large, size, 1), 1)


def norm_ratio(x: jax.Array, y: jax.Array) -> jax.Array:
    r"""Return $\lVert X \rVert / \lVert Y \rVert$ for each pair of matrices, as `[..., 1, 1]`; 0 where $Y$ is 0.

    >>> print(norm_ratio(jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])))
    [[2.5]]
    """
    size = frobenius_norms(y)
    is_nonzero = size > 0
    return jnp.where(is_nonzero, frobenius_norms(x) / jnp.where(is_nonzero, size, 1), 0)
