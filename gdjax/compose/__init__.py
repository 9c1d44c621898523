"""Transforms made of transforms, and what can be read off them."""

from gdjax.compose.by_path import by_path as by_path
from gdjax.compose.chain import chain as chain
from gdjax.compose.chain import named_chain as named_chain
from gdjax.compose.hidden import hidden_matrices as hidden_matrices
from gdjax.compose.masking import frozen as frozen
from gdjax.compose.masking import masked as masked
from gdjax.compose.partitioning import freeze as freeze
from gdjax.compose.partitioning import multi_transform as multi_transform
from gdjax.compose.partitioning import partition as partition
from gdjax.compose.partitioning import selective_transform as selective_transform
from gdjax.compose.updating import apply_updates as apply_updates
from gdjax.compose.updating import descend as descend
from gdjax.compose.watching import WatchState as WatchState
from gdjax.compose.watching import metrics as metrics
from gdjax.compose.watching import watch as watch
