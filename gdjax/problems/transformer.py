"""Small transformer: blocks of causal attention and a two-layer network, each after a layer norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree


def init(key: jax.Array, symbols: int, width: int, layers: int, length: int) -> dict[str, Any]:
    """Return initial parameters: normal with variance 1 over the inputs, and smaller where blocks add up."""
    keys = iter(jax.random.split(key, 3 + 6 * layers))

    def matrix(inputs, outputs, variance=1.0):
        return jax.random.normal(next(keys), (inputs, outputs)) * np.sqrt(variance / inputs)

    def embedding(size):
        return jax.random.normal(next(keys), (size, width)) / np.sqrt(width)

    def block():
        attention = {name: matrix(width, width) for name in ("query", "key", "value")}
        attention["output"] = matrix(width, width, variance=0.5 / layers)
        mlp = {"input": matrix(width, 4 * width), "output": matrix(4 * width, width, variance=0.5 / layers)}
        norms = {"attention_norm": jnp.ones(width), "mlp_norm": jnp.ones(width)}
        return {"attention": attention, "mlp": mlp, **norms}

    return {
        "symbol": embedding(symbols),
        "position": embedding(length),
        "blocks": [block() for _ in range(layers)],
        "norm": jnp.ones(width),
        "head": matrix(width, symbols),
    }


def logits(params: dict[str, Any], symbols: jax.Array, heads: int) -> jax.Array:
    """Return the logits `[..., n, symbols]` of the symbol after each one in `[..., n]`, in float32 or wider."""
    x = params["symbol"][symbols] + params["position"][: symbols.shape[-1]]
    for block in params["blocks"]:
        x = x + _attention(block["attention"], _layer_norm(x, block["attention_norm"]), heads)
        x = x + _mlp(block["mlp"], _layer_norm(x, block["mlp_norm"]))
    return tree.widen(_layer_norm(x, params["norm"]) @ params["head"])


def _attention(layer: dict[str, jax.Array], x: jax.Array, heads: int) -> jax.Array:
    """Return causal multi-head attention: each position attends to itself and the positions before it."""

    def project(name):
        return (x @ layer[name]).reshape(*x.shape[:-1], heads, -1)

    query, key, value = map(project, ("query", "key", "value"))
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / np.sqrt(query.shape[-1])
    is_past = jnp.tri(x.shape[-2], dtype=bool)
    weights = jax.nn.softmax(jnp.where(is_past, tree.widen(scores), -jnp.inf)).astype(x.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value).reshape(x.shape) @ layer["output"]


def _mlp(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x @ layer["input"]) @ layer["output"]


def _layer_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Return the layer norm without a bias."""
    return jax.nn.standardize(tree.widen(x)).astype(x.dtype) * scale
