"""Matrices, batched: polar factors by products alone, inverse roots, bases of eigenvectors."""

from gdjax.linalg.eigenbasis import eigenbasis as eigenbasis
from gdjax.linalg.eigenbasis import refreshed as refreshed
from gdjax.linalg.newton_schulz import CONVERGING as CONVERGING
from gdjax.linalg.newton_schulz import JORDAN as JORDAN
from gdjax.linalg.newton_schulz import POLAR_EXPRESS as POLAR_EXPRESS
from gdjax.linalg.newton_schulz import POLAR_EXPRESS_8 as POLAR_EXPRESS_8
from gdjax.linalg.newton_schulz import QUINTIC as QUINTIC
from gdjax.linalg.newton_schulz import orthogonalized as orthogonalized
from gdjax.linalg.products import between as between
from gdjax.linalg.products import fitted as fitted
from gdjax.linalg.products import gram as gram
from gdjax.linalg.products import length_ratio as length_ratio
from gdjax.linalg.products import lengths as lengths
from gdjax.linalg.products import matmul as matmul
from gdjax.linalg.roots import inverse_root as inverse_root
from gdjax.linalg.roots import inverse_root_by_newton as inverse_root_by_newton
from gdjax.linalg.roots import whole_power as whole_power
