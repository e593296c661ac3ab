"""What a benchmark's figures say: pure functions from measured points to findings that show themselves (notebook 08).

Every finding is a table with a sentence that is computed from it; each says the opposite where the data does. What is
given may be a sweep, results, or :class:`Point` values made by hand.
"""

from helpers.bench.analysis.ceiling import Ceiling as Ceiling
from helpers.bench.analysis.ceiling import ceiling as ceiling
from helpers.bench.analysis.cost import Cost as Cost
from helpers.bench.analysis.cost import cost as cost
from helpers.bench.analysis.curve import Curve as Curve
from helpers.bench.analysis.curve import curve as curve
from helpers.bench.analysis.here import distance_here as distance_here
from helpers.bench.analysis.here import precisions_here as precisions_here
from helpers.bench.analysis.kv_blocks import KvBlocks as KvBlocks
from helpers.bench.analysis.kv_blocks import kv_blocks as kv_blocks
from helpers.bench.analysis.points import Point as Point
from helpers.bench.analysis.precision import Precisions as Precisions
from helpers.bench.analysis.precision import precisions as precisions
from helpers.bench.analysis.roofline import Distance as Distance
from helpers.bench.analysis.roofline import bandwidth_at as bandwidth_at
from helpers.bench.analysis.roofline import distance as distance
from helpers.bench.analysis.roofline import weights_read as weights_read
from helpers.bench.analysis.sweet_spot import SweetSpot as SweetSpot
from helpers.bench.analysis.sweet_spot import sweet_spot as sweet_spot
