"""Linear algebra of batched matrices: Newton-Schulz orthogonalization, inverse roots, eigenbases."""

from gdjax.linalg.eigenvectors import eigenbasis as eigenbasis
from gdjax.linalg.eigenvectors import refresh_eigenbasis as refresh_eigenbasis
from gdjax.linalg.newton_schulz import CONVERGING as CONVERGING
from gdjax.linalg.newton_schulz import JORDAN as JORDAN
from gdjax.linalg.newton_schulz import POLAR_EXPRESS as POLAR_EXPRESS
from gdjax.linalg.newton_schulz import POLAR_EXPRESS_8 as POLAR_EXPRESS_8
from gdjax.linalg.newton_schulz import QUINTIC as QUINTIC
from gdjax.linalg.newton_schulz import orthogonalize as orthogonalize
from gdjax.linalg.products import frobenius_norms as frobenius_norms
from gdjax.linalg.products import gram as gram
from gdjax.linalg.products import limit_norm as limit_norm
from gdjax.linalg.products import matmul as matmul
from gdjax.linalg.products import norm_ratio as norm_ratio
from gdjax.linalg.products import two_sided_product as two_sided_product
from gdjax.linalg.roots import inverse_root as inverse_root
from gdjax.linalg.roots import inverse_root_by_newton as inverse_root_by_newton
from gdjax.linalg.roots import root_degree as root_degree
