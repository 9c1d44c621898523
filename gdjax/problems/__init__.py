"""Problems to optimize: test functions with known minima, and models with data."""

from gdjax.problems.base import Parts as Parts
from gdjax.problems.base import Problem as Problem
from gdjax.problems.base import problem as problem
from gdjax.problems.chains import exploding as exploding
from gdjax.problems.chains import vanishing as vanishing
from gdjax.problems.digit_images import digits as digits
from gdjax.problems.digit_images import digits_conv as digits_conv
from gdjax.problems.flat import plateau as plateau
from gdjax.problems.flat import saddle as saddle
from gdjax.problems.functions import beale as beale
from gdjax.problems.functions import parabola as parabola
from gdjax.problems.functions import quadratic as quadratic
from gdjax.problems.functions import rastrigin as rastrigin
from gdjax.problems.functions import rosenbrock as rosenbrock
from gdjax.problems.language_model import text as text
from gdjax.problems.matrix_factorization import recommendation as recommendation
from gdjax.problems.naming import factories as factories
from gdjax.problems.naming import find as find
from gdjax.problems.naming import parse as parse
from gdjax.problems.tables import classification as classification
from gdjax.problems.tables import regression as regression
