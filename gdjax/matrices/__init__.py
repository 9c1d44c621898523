"""Leaves as matrices: which matrices a leaf holds, how they are stacked, and which device works on which of them."""

from gdjax.matrices.assignment import MatrixBatch as MatrixBatch
from gdjax.matrices.blocking import join_blocks as join_blocks
from gdjax.matrices.blocking import split_into_blocks as split_into_blocks
from gdjax.matrices.layout import Layout as Layout
from gdjax.matrices.refresh import refresh_due as refresh_due
from gdjax.matrices.roots import InverseRootOrFunction as InverseRootOrFunction
from gdjax.matrices.roots import eigh_root as eigh_root
from gdjax.matrices.roots import newton_root as newton_root
from gdjax.matrices.scales import ScaleOrFunction as ScaleOrFunction
from gdjax.matrices.scales import jordan_scale as jordan_scale
from gdjax.matrices.scales import moonlight_scale as moonlight_scale
from gdjax.matrices.views import View as View
from gdjax.matrices.views import view as view
