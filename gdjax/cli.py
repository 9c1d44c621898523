"""The command line: `gdjax train` descends on digits."""

import functools
import sys
from typing import Annotated

import jax
import jax.numpy as jnp

from gdjax import names, problems, tree
from gdjax.value import GradientTransform, ParseError
from gdjax.wrappers import eval_params

try:
    import typer
except ModuleNotFoundError as error:
    raise SystemExit("gdjax: the command line needs typer and scikit-learn: pip install 'gdjax[train]'") from error

main = typer.Typer(add_completion=False, help="Gradient descent for JAX: an optimizer is a value.")


@main.callback()
def _commands() -> None:
    """Keep `train` a command by name, alone as it is."""


@main.command()
def train(
    optimizer: Annotated[str, typer.Option(help="An expression, as an optimizer prints.")] = "adamw(3e-3)",
    epochs: Annotated[int, typer.Option(min=1, help="Times through the data.")] = 20,
    batch_size: Annotated[int, typer.Option(min=1, max=1437, help="Images a step, of 1,437.")] = 64,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Of the weights and the order of images.")] = 0,
) -> None:
    """Descend on handwritten digits: a network of two layers, mini-batches, accuracy on held-out images."""
    try:
        tx = names.parse(optimizer)
    except ParseError as error:
        raise typer.BadParameter(str(error), param_hint="--optimizer") from error
    if not isinstance(tx, GradientTransform):
        raise typer.BadParameter(f"a transform is needed, got {tx}", param_hint="--optimizer")
    print(tx)
    data = problems.digits()
    weights, order = jax.random.split(jax.random.key(seed))
    params = problems.init(weights)
    try:
        state = tree.fresh(tx.init(params))  # that of a lifted one may hold the parameters, and both are donated
        jax.eval_shape(functools.partial(problems.epoch, batch_size=batch_size), tx, params, state, data.train, order)
    except (TypeError, ValueError) as error:
        raise typer.BadParameter(str(error), param_hint="--optimizer") from error
    descend = jax.jit(functools.partial(problems.epoch, batch_size=batch_size), donate_argnums=(1, 2))
    for epoch in range(1, epochs + 1):
        params, state, loss = descend(tx, params, state, data.train, jax.random.fold_in(order, epoch))
        accuracy = problems.accuracy(eval_params(tx, state, params), data.test)
        print(f"epoch {epoch:3d}  loss {loss:.4f}  held-out accuracy {accuracy:.4f}", flush=True)
        if not jnp.isfinite(loss):
            print(f"gdjax: the loss is {loss} after epoch {epoch}; try a smaller learning rate", file=sys.stderr)
            raise typer.Exit(1)
