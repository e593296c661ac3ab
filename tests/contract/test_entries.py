"""The table of Python entry points: every parameter can be given, and every slip is found and named."""

import pytest

from helpers.releases.contract import RELEASES, contract

VALUES = {"int": 1, "float": 0.5, "bool": True, "str": "word", "list": [1], "any": object()}
ROWS = [
    pytest.param(entry, parameter, id=f"{release}-{entry.name}-{parameter.name}")
    for release in RELEASES
    for entry in contract(release).entries.values()
    for parameter in entry.parameters
]
WANTED = """
    tensorrt_llm._tensorrt_engine.LLM tensorrt_llm.LLM tensorrt_llm.BuildConfig tensorrt_llm.SamplingParams
    tensorrt_llm.llmapi.QuantConfig tensorrt_llm.llmapi.CalibConfig tensorrt_llm.llmapi.KvCacheConfig
    tensorrt_llm.llmapi.SchedulerConfig tensorrt_llm.llmapi.CapacitySchedulerPolicy
    tensorrt_llm.llmapi.QuantAlgo tensorrt_llm.mapping.Mapping tensorrt_llm.LLM.generate
    tensorrt_llm.models.LLaMAForCausalLM.from_hugging_face tensorrt_llm.models.LLaMAForCausalLM.save_checkpoint
    tensorrt_llm.LLM.generate_async tensorrt_llm.LLM.get_stats tensorrt_llm.LLM.shutdown
    modelopt.torch.export.export_tensorrt_llm_checkpoint modelopt.torch.export.export_hf_checkpoint
    modelopt.torch.quantization.quantize
    tensorrt.Runtime tensorrt.Runtime.deserialize_cuda_engine tensorrt.ICudaEngine.create_engine_inspector
    tensorrt.EngineInspector.get_engine_information
"""


def value(parameter):
    return parameter.choices[0] if parameter.choices else VALUES[parameter.kind]


def needed(entry):
    """A call with nothing but what the entry point cannot do without."""
    return {p.name: value(p) for p in entry.parameters if p.required and p.status == "ok"}


@pytest.mark.parametrize("release", RELEASES)
def test_every_entry_point_that_workers_use_is_written_down(release):
    assert set(contract(release).entries) == set(WANTED.split())
    assert all(entry.source for entry in contract(release).entries.values())


@pytest.mark.parametrize(("entry", "parameter"), ROWS)
def test_each_row_has_a_source_and_does_what_its_status_says(entry, parameter):
    assert len(parameter.source) > 20
    assert bool(parameter.reason) == (parameter.status != "ok")
    arguments = {**needed(entry), parameter.name: value(parameter)}
    told = entry.problems(arguments)
    if parameter.status == "ok":
        assert told == []
        assert (entry.unverified(arguments) == []) == parameter.verified
    else:
        assert len(told) == 1
        assert parameter.name in told[0]
        assert parameter.reason in told[0]


@pytest.mark.parametrize(("entry", "parameter"), ROWS)
def test_one_changed_letter_is_found(entry, parameter):
    for place in (len(parameter.name) - 1, len(parameter.name) // 2):
        slip = parameter.name[:place] + ("z" if parameter.name[place] == "q" else "q") + parameter.name[place + 1 :]
        told = entry.problems({**needed(entry), slip: value(parameter)})
        assert any(f"has no {'member' if entry.members else 'parameter'} {slip}" in sentence for sentence in told)


@pytest.mark.parametrize(("entry", "parameter"), ROWS)
def test_a_default_is_a_value_that_the_parameter_takes(entry, parameter):
    if parameter.status == "ok" and parameter.default is not None:
        assert entry.problems({**needed(entry), parameter.name: parameter.default}) == []


@pytest.mark.parametrize("release", RELEASES)
def test_a_parameter_means_one_thing_in_a_release(release):
    for entry in contract(release).entries.values():
        names = [parameter.name for parameter in entry.parameters]
        assert len(names) == len(set(names)), entry.name


@pytest.mark.parametrize(
    ("entry", "arguments", "told"),
    [
        ("tensorrt_llm.SamplingParams", {"max_new_tokens": 9}, "it is called max_tokens"),
        ("tensorrt_llm.SamplingParams", {"max_tokens": True}, "max_tokens takes int, not True"),
        ("tensorrt_llm.SamplingParams", {"temperature": "0"}, "temperature takes float"),
        ("tensorrt_llm.llmapi.CalibConfig", {"device": "tpu"}, "device takes one of cuda, cpu"),
        ("tensorrt_llm.llmapi.QuantAlgo", {"W8A17": None}, "has no member W8A17; nearest: W8A16"),
        ("tensorrt_llm.llmapi.KvCacheConfig", {"free_gpu_mem_fraction": 0.5}, "nearest: free_gpu_memory_fraction"),
        (
            "tensorrt_llm._tensorrt_engine.LLM",
            {"model": "m", "enable_iter_perf_stats": True},
            "belongs to tensorrt_llm.LLM",
        ),
        ("tensorrt_llm._tensorrt_engine.LLM", {}, "needs model"),
        ("tensorrt_llm.LLM", {"model": "m", "build_config": 1}, "there is nothing to build here"),
        ("tensorrt_llm.LLM.generate", {"inputs": [], "streaming": True}, "generate_async"),
    ],
)
def test_a_slip_is_told_in_a_sentence(entry, arguments, told):
    for release in RELEASES:
        problems = contract(release).entries[entry].problems(arguments)
        assert any(told in problem for problem in problems), problems


def test_what_differs_between_the_releases():
    old, new = (contract(release).entries["tensorrt_llm.llmapi.KvCacheConfig"] for release in ("1.0.0", "1.2.1"))
    assert new.problems({"tokens_per_block": 32}) == []
    assert "has no parameter tokens_per_block" in old.problems({"tokens_per_block": 32})[0]


@pytest.mark.parametrize("release", RELEASES)
def test_a_scheduler_policy_is_one_of_the_runtimes(release):
    scheduler = contract(release).entries["tensorrt_llm.llmapi.SchedulerConfig"]
    policies = contract(release).entries["tensorrt_llm.llmapi.CapacitySchedulerPolicy"]
    for member in policies.parameters:
        assert scheduler.problems({"capacity_scheduler_policy": member.name}) == []
    assert "takes one of MAX_UTILIZATION" in scheduler.problems({"capacity_scheduler_policy": "MAX_UTILISATION"})[0]
    assert "has no member MAX_UTILISATION" in policies.problems({"MAX_UTILISATION": None})[0]
