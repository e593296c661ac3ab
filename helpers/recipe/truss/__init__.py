"""A recipe as a ``config.yaml`` for Truss, Baseten's packager: what it becomes, and what is refused (notebook 07).

Nothing of Truss is imported: its names, its ranges and its words are data, ``data/truss.toml``, and the tests hold each
against the real package. Nothing here reaches Baseten either; what only its side decides is called published.
"""

from helpers.recipe.truss.call import PredictCall, predict_call
from helpers.recipe.truss.export import FILE, TrussExport, export
from helpers.recipe.truss.facts import facts, version
from helpers.recipe.truss.mapping import Difference
from helpers.recipe.truss.refusals import Refusal
from helpers.recipe.truss.talk import TalkConfig, differences, talk_config

__all__ = [
    "FILE",
    "Difference",
    "PredictCall",
    "Refusal",
    "TalkConfig",
    "TrussExport",
    "differences",
    "export",
    "facts",
    "predict_call",
    "talk_config",
    "version",
]
