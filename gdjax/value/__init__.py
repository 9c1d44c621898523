"""The ground floor: an optimizer is a value."""

from gdjax.value.factory import Factory as Factory
from gdjax.value.factory import lift as lift
from gdjax.value.factory import named as named
from gdjax.value.factory import schedule as schedule
from gdjax.value.factory import transform as transform
from gdjax.value.gradient_transform import GradientTransform as GradientTransform
from gdjax.value.gradient_transform import expand as expand
from gdjax.value.no_state import stateless as stateless
from gdjax.value.no_state import stateless_rereading as stateless_rereading
from gdjax.value.parsing import ParseError as ParseError
from gdjax.value.parsing import parse as parse
from gdjax.value.schedules import Schedule as Schedule
from gdjax.value.schedules import at as at
from gdjax.value.slots import AccumulatorDType as AccumulatorDType
from gdjax.value.slots import Decay as Decay
from gdjax.value.slots import Interval as Interval
from gdjax.value.slots import LearningRate as LearningRate
from gdjax.value.slots import Momentum as Momentum
from gdjax.value.slots import NonNegative as NonNegative
from gdjax.value.slots import Positive as Positive
from gdjax.value.slots import Rate as Rate
from gdjax.value.slots import Scalar as Scalar
from gdjax.value.slots import ScalarOrSchedule as ScalarOrSchedule
from gdjax.value.slots import WeightDecay as WeightDecay
from gdjax.value.stacking import stack as stack
