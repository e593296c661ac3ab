"""Exercises that judge an answer and say what is wrong with it, not only that it is.

Each works unanswered too, so that a notebook runs as it is. The right answers are computed, most by the memory planner:
:mod:`helpers.exercises.start_here`, :mod:`helpers.exercises.gpu_checks`, :mod:`helpers.exercises.installation`,
:mod:`helpers.exercises.fp16_build` and :mod:`helpers.exercises.fp8_build` belong to notebooks 00 to 04,
:mod:`helpers.exercises.kv_cache` belongs to notebook 05, :mod:`helpers.exercises.tensor_parallel` to notebook 06,
:mod:`helpers.exercises.recipe` to notebook 07, :mod:`helpers.exercises.bench` to notebook 08, whose answers come from
the reader's own measurements, :mod:`helpers.exercises.production` to notebook 09,
:mod:`helpers.exercises.pytorch_backend` to notebook 10.
"""

from helpers.exercises.bench import check_concurrency, check_cost, check_tpot, tpot_request
from helpers.exercises.fp8_build import check_rounded, check_scaling_factor, check_told_apart
from helpers.exercises.fp16_build import check_engine_gb, check_new_engine, check_tokens
from helpers.exercises.gpu_checks import check_one_user, check_step_limits, check_without_fp8
from helpers.exercises.installation import check_fault, check_release
from helpers.exercises.kv_cache import check_precisions, check_requests_on_a10g, solutions
from helpers.exercises.production import check_cold_share, check_replicas
from helpers.exercises.pytorch_backend import check_after_int8, check_joined_scale
from helpers.exercises.recipe import check_recipe_change, check_request, check_talk_recipe
from helpers.exercises.start_here import check_gpus_for_8b, check_weight_gb
from helpers.exercises.tensor_parallel import check_all_reduce_bytes, check_gpus_for_70b, gpus_for_70b

__all__ = [
    "check_after_int8",
    "check_all_reduce_bytes",
    "check_cold_share",
    "check_concurrency",
    "check_cost",
    "check_engine_gb",
    "check_fault",
    "check_gpus_for_8b",
    "check_gpus_for_70b",
    "check_joined_scale",
    "check_new_engine",
    "check_one_user",
    "check_precisions",
    "check_recipe_change",
    "check_release",
    "check_replicas",
    "check_request",
    "check_requests_on_a10g",
    "check_rounded",
    "check_scaling_factor",
    "check_step_limits",
    "check_talk_recipe",
    "check_tokens",
    "check_told_apart",
    "check_tpot",
    "check_weight_gb",
    "check_without_fp8",
    "gpus_for_70b",
    "solutions",
    "tpot_request",
]
