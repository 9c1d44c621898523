"""Functions of pytrees under Optax's names; `gdjax.tree` has them without the prefix `tree_`.

Sums, products and norms of 16-bit leaves are computed in float32. Scaling a tree keeps the dtypes of its leaves.
"""

import optax

from gdjax import exports
from gdjax.explaining import reexport
from gdjax.fallback import stand_in
from gdjax.tree import cast_like
from gdjax.tree_utils.arithmetic import tree_add as tree_add
from gdjax.tree_utils.arithmetic import tree_add_scale as tree_add_scale
from gdjax.tree_utils.arithmetic import tree_clip as tree_clip
from gdjax.tree_utils.arithmetic import tree_scale as tree_scale
from gdjax.tree_utils.making import tree_cast as tree_cast
from gdjax.tree_utils.making import tree_random_like as tree_random_like
from gdjax.tree_utils.moments import bias_correction as bias_correction
from gdjax.tree_utils.moments import update_infinity_moment as update_infinity_moment
from gdjax.tree_utils.moments import update_moment as update_moment
from gdjax.tree_utils.moments import update_moment_per_elem_norm as update_moment_per_elem_norm
from gdjax.tree_utils.reducing import tree_max as tree_max
from gdjax.tree_utils.reducing import tree_min as tree_min
from gdjax.tree_utils.reducing import tree_norm as tree_norm
from gdjax.tree_utils.reducing import tree_sum as tree_sum
from gdjax.tree_utils.reducing import tree_vdot as tree_vdot

tree_cast_like = cast_like
tree_bias_correction = bias_correction
tree_update_infinity_moment = update_infinity_moment
tree_update_moment = update_moment
tree_update_moment_per_elem_norm = update_moment_per_elem_norm

tree_allclose = reexport("tree.allclose", optax.tree.allclose, __name__)
tree_conj = reexport("tree.conj", optax.tree.conj, __name__)
tree_div = reexport("tree.div", optax.tree.div, __name__)
tree_full_like = reexport("tree.full_like", optax.tree.full_like, __name__)
tree_mul = reexport("tree.mul", optax.tree.mul, __name__)
tree_ones_like = reexport("tree.ones_like", optax.tree.ones_like, __name__)
tree_real = reexport("tree.real", optax.tree.real, __name__)
tree_sub = reexport("tree.sub", optax.tree.sub, __name__)
tree_where = reexport("tree.where", optax.tree.where, __name__)
tree_zeros_like = reexport("tree.zeros_like", optax.tree.zeros_like, __name__)

__getattr__, __dir__ = stand_in(__name__, exports.HOME)
