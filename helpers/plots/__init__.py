"""Pictures: pure functions from data to a `Picture`, each with a sentence and a table that say the same."""

from helpers.plots.amounts import bars as bars
from helpers.plots.batching import kv_blocks as kv_blocks
from helpers.plots.formats import layer_ranges as layer_ranges
from helpers.plots.formats import number_grid as number_grid
from helpers.plots.kv_cache import kv_errors as kv_errors
from helpers.plots.kv_cache import kv_ranges as kv_ranges
from helpers.plots.limits import Limits as Limits
from helpers.plots.limits import roofline as roofline
from helpers.plots.memory import memory_bar as memory_bar
from helpers.plots.parallel import parallel_times as parallel_times
from helpers.plots.parallel import parallel_ways as parallel_ways
from helpers.plots.stages import STAGES as STAGES
from helpers.plots.stages import pipeline as pipeline
