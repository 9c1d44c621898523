"""A small transformer: blocks of causal attention and two layers, each after a norm."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gdjax import tree


def init(key: jax.Array, symbols: int, width: int, layers: int, length: int) -> dict[str, Any]:
    """Parameters: matrices normal with variance 1 over their inputs, and less for what adds up over the blocks."""
    keys = iter(jax.random.split(key, 3 + 6 * layers))

    def normal(inputs, outputs, share=1.0):
        return jax.random.normal(next(keys), (inputs, outputs)) * np.sqrt(share / inputs)

    def vectors(many):
        return jax.random.normal(next(keys), (many, width)) / np.sqrt(width)

    def block():
        attention = {name: normal(width, width) for name in ("query", "key", "value")}
        attention["output"] = normal(width, width, share=0.5 / layers)
        mlp = {"input": normal(width, 4 * width), "output": normal(4 * width, width, share=0.5 / layers)}
        norms = {"attention_norm": jnp.ones(width), "mlp_norm": jnp.ones(width)}
        return {"attention": attention, "mlp": mlp, **norms}

    return {
        "symbol": vectors(symbols),
        "position": vectors(length),
        "blocks": [block() for _ in range(layers)],
        "norm": jnp.ones(width),
        "head": normal(width, symbols),
    }


def logits(params: dict[str, Any], symbols: jax.Array, heads: int) -> jax.Array:
    """Of the symbol after each one in `[..., n]`: `[..., n, symbols]`, float32 at least."""
    x = params["symbol"][symbols] + params["position"][: symbols.shape[-1]]
    for block in params["blocks"]:
        x = x + _attention(block["attention"], _normalised(x, block["attention_norm"]), heads)
        x = x + _mlp(block["mlp"], _normalised(x, block["mlp_norm"]))
    return tree.widen(_normalised(x, params["norm"]) @ params["head"])


def _attention(layer: dict[str, jax.Array], x: jax.Array, heads: int) -> jax.Array:
    """Each position's mean of values, weighted by how its query meets the keys up to it."""

    def by_head(name):
        return (x @ layer[name]).reshape(*x.shape[:-1], heads, -1)

    query, key, value = map(by_head, ("query", "key", "value"))
    scores = jnp.einsum("...qhd,...khd->...hqk", query, key) / np.sqrt(query.shape[-1])
    until_now = jnp.tri(x.shape[-2], dtype=bool)
    weights = jax.nn.softmax(jnp.where(until_now, tree.widen(scores), -jnp.inf)).astype(x.dtype)
    return jnp.einsum("...hqk,...khd->...qhd", weights, value).reshape(x.shape) @ layer["output"]


def _mlp(layer: dict[str, jax.Array], x: jax.Array) -> jax.Array:
    return jax.nn.gelu(x @ layer["input"]) @ layer["output"]


def _normalised(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Layer norm without a bias."""
    return jax.nn.standardize(tree.widen(x)).astype(x.dtype) * scale
