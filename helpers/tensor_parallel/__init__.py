"""One model over several ranks: real processes, the files that each rank gets, what it buys and what it costs.

``ranks`` runs it, ``report`` shows what was counted, ``timing`` measures GPUs; ``pieces`` looks into checkpoints;
``predict`` computes bytes and times (over ``links`` and ``experts``), ``comparison`` sets them side by side,
``beside`` next to what was recorded; and
``by_hand`` is the arithmetic of one layer in plain numpy. Notebook 06 uses all of it.
"""

from helpers.tensor_parallel.beside import beside_recorded
from helpers.tensor_parallel.comparison import Prediction
from helpers.tensor_parallel.comparison import compare as predicted
from helpers.tensor_parallel.pieces import pieces as rank_files
from helpers.tensor_parallel.pieces import sizes as file_sizes
from helpers.tensor_parallel.predict import WAYS
from helpers.tensor_parallel.ranks import TOLERANCE, Split, run
from helpers.tensor_parallel.report import agreement, exchanges, held, matrices
from helpers.tensor_parallel.timing import recorded, times

__all__ = [
    "TOLERANCE",
    "WAYS",
    "Prediction",
    "Split",
    "agreement",
    "beside_recorded",
    "exchanges",
    "file_sizes",
    "held",
    "matrices",
    "predicted",
    "rank_files",
    "recorded",
    "run",
    "times",
]
