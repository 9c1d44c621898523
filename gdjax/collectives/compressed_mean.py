"""Shorthand for `quantized_mean` and `low_rank_mean`."""

from gdjax.axes import AxisName
from gdjax.collectives.low_rank_mean import low_rank_mean
from gdjax.collectives.quantized_mean import quantized_mean
from gdjax.explaining import explain_usage
from gdjax.value import GradientTransform


@explain_usage("compressed_mean")
def compressed_mean(
    axis_name: AxisName, *, bits: int | None = None, rank: int | None = None, seed: int = 0
) -> GradientTransform:
    """Return `quantized_mean(axis_name)` for `bits=8`, or `low_rank_mean(axis_name, rank)` for a rank.

    Args:
      axis_name: the axis over which gradients are per-device.
      bits: 8, or `None` where `rank` is given.
      rank: an integer of at least 1, or `None` where `bits` is given.
      seed: an integer, only with `rank`.

    Raises:
      ValueError: if not exactly one of `bits` and `rank` is given, or `bits` is not 8.

    >>> import gdjax as gd
    >>> gd.compressed_mean("data", bits=8), gd.compressed_mean("data", rank=4)
    (quantized_mean(axis_name='data'), low_rank_mean(axis_name='data', rank=4, seed=0))
    """
    if (bits is None) == (rank is None):
        raise ValueError(f"compressed_mean: give one of bits and rank, got bits={bits!r}, rank={rank!r}.")
    if rank is not None:
        return low_rank_mean(axis_name, rank, seed=seed)
    if type(bits) is not int or bits != 8:
        raise ValueError(f"compressed_mean: bits must be 8, got {bits!r}.")
    if type(seed) is not int or seed:
        raise ValueError(f"compressed_mean: seed has no effect with bits, which draws nothing, got {seed!r}. Omit it.")
    return quantized_mean(axis_name)
