"""Leaves as matrices: how each is seen, in which stack it lies, and who of an axis works on it."""

from gdjax.matrices.blocks import blocks as blocks
from gdjax.matrices.blocks import joined as joined
from gdjax.matrices.mapping import Layout as Layout
from gdjax.matrices.scales import ScaleOrFunction as ScaleOrFunction
from gdjax.matrices.scales import jordan_scale as jordan_scale
from gdjax.matrices.scales import moonlight_scale as moonlight_scale
from gdjax.matrices.shares import Piece as Piece
from gdjax.matrices.turns import in_turn as in_turn
from gdjax.matrices.view import View as View
from gdjax.matrices.view import view as view
