"""What a model's KV cache really holds, and what rounding it to eight bits costs (notebook 05).

:func:`capture` takes keys and values from the running model (``stages.py``); everything else is arithmetic on
those arrays (``rounding.py``).
:func:`with_outlier_keys` makes the controlled experiment: a model that computes the same, but whose keys have the
outlier channels that large models are reported to have.

Published, on large models: "there are a few fixed channels whose magnitudes are very large" in the keys (KIVI, arXiv
2402.02750); keys "tend to have distinct outlier channels, which have larger average magnitudes than other channels",
and the outliers of values are less extreme (KVQuant, arXiv 2401.18079); "fixed outlier channels in each head" of the
keys, about ten times as large as most (QServe, arXiv 2405.04532).
"""

from helpers.kv_cache.rounding import E4M3 as E4M3
from helpers.kv_cache.rounding import INT8 as INT8
from helpers.kv_cache.rounding import WAYS as WAYS
from helpers.kv_cache.rounding import Errors as Errors
from helpers.kv_cache.rounding import Ranges as Ranges
from helpers.kv_cache.rounding import Way as Way
from helpers.kv_cache.rounding import by_channel as by_channel
from helpers.kv_cache.rounding import channel_errors as channel_errors
from helpers.kv_cache.rounding import errors as errors
from helpers.kv_cache.rounding import measure as measure
from helpers.kv_cache.rounding import ranges as ranges
from helpers.kv_cache.rounding import rounded as rounded
from helpers.kv_cache.stages import OUTLIERS as OUTLIERS
from helpers.kv_cache.stages import PARTS as PARTS
from helpers.kv_cache.stages import Capture as Capture
from helpers.kv_cache.stages import Part as Part
from helpers.kv_cache.stages import capture as capture
from helpers.kv_cache.stages import with_outlier_keys as with_outlier_keys
