"""Transforms over a named axis: what the members of it say to each other."""

from gdjax.collectives.compressing import compressed_mean as compressed_mean
from gdjax.collectives.local_steps import LocalStepsState as LocalStepsState
from gdjax.collectives.local_steps import local_steps as local_steps
from gdjax.collectives.low_rank import LowRankMeanState as LowRankMeanState
from gdjax.collectives.mean import mean_over as mean_over
from gdjax.collectives.quantised import QuantisedMeanState as QuantisedMeanState
from gdjax.collectives.replicas import replicate as replicate
from gdjax.collectives.replicas import unreplicate as unreplicate
from gdjax.collectives.shard_update import shard_update as shard_update
