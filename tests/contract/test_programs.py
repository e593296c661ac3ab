"""The table of TensorRT-LLM's programs: every row can be used, and every slip is found and named."""

import pytest

from helpers.errors import WorkshopError
from helpers.releases import contract as contracts
from helpers.releases.contract import RELEASES, Option, Program, contract

VALUES = {"int": "3", "float": "0.5", "str": "word", "path": "/some/path"}


def start(program: Program) -> list[str]:
    """The words that start a program and give it what it cannot do without."""
    if program.module:
        return ["python", "-m", program.module, "--model", "m"]
    name, _, command = program.name.partition(" ")
    needed = ["--model", "m"] if name == "trtllm-bench" else []
    return [f"/somewhere/bin/{name}", *needed, *([command] if command else []), *map(str.lower, program.positional)]


def given(option: Option, spelling: str) -> list[str]:
    """An option as one would write it."""
    if option.kind == "flag":
        return [spelling]
    return [spelling, option.choices[0] if option.choices else VALUES[option.kind]]


def rows():
    """Every option of every program and release, with the words to say before it."""
    for release in RELEASES:
        for whole in contract(release).programs.values():
            for program, option in whole.every_option():
                if whole.commands and program is whole:  # an option of the group comes before the sub-command
                    name = next(iter(whole.commands))
                    before, after = [whole.name], ["--model", "m", name]
                    after = after[2:] if option.name == "--model" else after
                else:
                    before, after = start(program), []
                    if option.name == "--model" and whole.module:
                        before = before[:3]
                yield pytest.param(
                    whole, option, before, after, id=f"{release}-{program.name.replace(' ', '-')}{option.name}"
                )


ROWS = list(rows())


def test_there_is_something_to_test():
    assert len(ROWS) > 400


@pytest.mark.parametrize(("program", "option", "before", "after"), ROWS)
def test_each_row_has_a_source_and_does_what_its_status_says(program, option, before, after):
    assert len(option.source) > 20
    assert option.status in ("ok", "deprecated", "removed")
    assert bool(option.reason) == (option.status != "ok")
    for spelling in option.spellings:
        command = [*before, *given(option, spelling), *after]
        told = program.problems(command)
        if option.status == "ok":
            assert not told
            assert option.verified != (option.name in program.unverified(command))
            assert program.parse(command)[option.key] not in (None, False)
        else:
            assert len(told) == 1
            assert option.name in told[0]
            assert option.reason in told[0]


@pytest.mark.parametrize(("program", "option", "before", "after"), ROWS)
def test_one_changed_letter_is_found(program, option, before, after):
    for spelling in option.spellings:
        for place in (len(spelling) - 1, len(spelling) // 2):
            if spelling[place] in "-_":
                place -= 1
            slip = spelling[:place] + ("q" if spelling[place] != "q" else "z") + spelling[place + 1 :]
            command = [*before, *given(option, slip), *after]
            told = program.problems(command)
            assert any(f"has no option {slip}" in sentence for sentence in told), (command, told)
            with pytest.raises(ValueError, match=r"(?i)no such option|unrecognized arguments"):
                program.parse(command)


@pytest.mark.parametrize(("program", "option", "before", "after"), ROWS)
def test_a_default_is_a_value_that_the_option_takes(program, option, before, after):
    if option.default is not None and option.status != "removed":
        assert not any(
            "takes" in told for told in program.problems([*before, option.name, str(option.default), *after])
        )


@pytest.mark.parametrize("release", RELEASES)
def test_an_option_means_one_thing_in_a_release(release):
    for whole in contract(release).programs.values():
        for program in (whole, *whole.commands.values()):
            spellings = [spelling for option in program.options for spelling in option.spellings]
            assert len(spellings) == len(set(spellings)), program.name


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("trtllm-build --workers two", "--workers takes a whole number, not 'two'."),
        ("trtllm-build --kv_cache_type pagd", "--kv_cache_type takes one of continuous, paged, disabled, not 'pagd'."),
        ("trtllm-build --use_paged_context_fmha true", "--use_paged_context_fmha takes one of enable, disable"),
        ("trtllm-build --checkpoint_dir", "--checkpoint_dir needs a value."),
        ("trtllm-build --strip_plan=yes", "--strip_plan is a switch"),
        ("trtllm-build --workers 1 --workers 2", "--workers is given twice"),
        ("trtllm-build engine", "takes no further word 'engine'"),
        ("trtllm-build --tp_size 2", "the number of ranks comes from the checkpoint's config.json"),
        ("trtllm-serve serve", "trtllm-serve serve needs MODEL."),
        ("trtllm-serve", "needs one of serve"),
        ("trtllm-serve --backend trt engine", "trtllm-serve of release"),  # the group has no options of its own
        ("trtllm-serve engine --backend engine", "--backend takes one of pytorch, trt"),
        (
            "trtllm-serve engine --free_gpu_memory_fraction 0.8",
            "both releases take --kv_cache_free_gpu_memory_fraction",
        ),
        ("trtllm-serve engine --port 80x", "--port takes a whole number"),
        ("trtllm-bench --model m latency --streaming", "latency always streams"),
        ("trtllm-bench throughput --dataset d", "trtllm-bench needs --model."),
        ("trtllm-bench --model m", "needs one of throughput, latency"),
        ("trtllm-bench --model m build --max_seq_len 3", "trtllm-bench build exists and is not used here"),
        ("trtllm-bench --model m thruput", "no sub-command 'thruput'"),
        ("trtllm-bench --model m throughput --kv_cache_free_gpu_memory_fraction 1", "--kv_cache_free_gpu_mem_fraction"),
        ("python -m tensorrt_llm.serve.scripts.benchmark_serving --num-prompts 3", "needs --model"),
    ],
)
def test_a_slip_is_told_in_a_sentence(release, command, told):
    words = command.split()
    problems = contract(release).program(words).problems(words)
    assert any(told in problem for problem in problems), problems


def test_an_engine_is_served_by_another_word_in_each_release():
    command = "trtllm-serve serve /engine --backend {} --tokenizer /model --tp_size 2"
    answers = {}
    for release in RELEASES:
        program = contract(release).programs["trtllm-serve"]
        for word in ("trt", "tensorrt"):
            answers[release, word] = program.problems(command.format(word).split())
    assert answers["1.2.1", "trt"] == answers["1.2.1", "tensorrt"] == answers["1.0.0", "trt"] == []
    assert "takes one of pytorch, trt, _autodeploy" in answers["1.0.0", "tensorrt"][0]
    assert contract("1.2.1").programs["trtllm-serve"].parse(command.format("trt").split())["backend"] == "tensorrt"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("trtllm-build --max_batch 3", "trtllm-build: error: unrecognized arguments: --max_batch"),
        ("trtllm-build --workers x", "trtllm-build: error: argument --workers: invalid int value: 'x'"),
        ("trtllm-build --logits_dtype x", "invalid choice: 'x' (choose from 'float16', 'float32')"),
        ("trtllm-build --workers", "argument --workers: expected one argument"),
        ("trtllm-serve e --prot 3", "Error: No such option: --prot Did you mean --port?"),
        ("trtllm-serve e --port x", "Error: Invalid value for '--port': 'x' is not a valid integer."),
        ("trtllm-serve e --backend x", "Error: Invalid value for '--backend': 'x' is not one of 'pytorch', 'trt'"),
        ("trtllm-serve serve --port 3", "Error: Missing argument 'MODEL'."),
        ("trtllm-serve e f", "Error: Got unexpected extra argument (f)"),
        ("trtllm-bench --model m", "Error: Missing command."),
        ("trtllm-bench throughput", "Error: Missing option '--model'."),
    ],
)
def test_parse_answers_as_the_program_does(command, told):
    words = command.split()
    with pytest.raises(ValueError) as caught:
        contract("1.2.1").program(words).parse(words)
    assert told in str(caught.value)


def test_parse_gives_the_values_that_the_program_sees():
    words = [
        "/pod/bin/trtllm-build",
        "--checkpoint_dir",
        "c",
        "--max_seq_len=2048",
        "--gather_context_logits",
        "--lora_dir",
        "a",
        "b",
    ]
    seen = contract("1.2.1").program(words).parse(words)
    assert (seen["checkpoint_dir"], seen["max_seq_len"], seen["gather_context_logits"]) == ("c", 2048, True)
    assert (seen["max_batch_size"], seen["strip_plan"], seen["lora_dir"]) == (2048, False, ["a", "b"])
    words = [
        "trtllm-bench",
        "-m",
        "x",
        "--workspace",
        "/w",
        "throughput",
        "--concurrency",
        "-1",
        "--tp",
        "2",
        "--streaming",
    ]
    seen = contract("1.0.0").program(words).parse(words)
    assert (seen["command"], seen["model"], seen["concurrency"], seen["tp"]) == ("throughput", "x", -1, 2)
    words = [
        "python",
        "-m",
        "tensorrt_llm.serve.scripts.benchmark_serving",
        "--model",
        "m",
        "--goodput",
        "ttft:200",
        "tpot:50",
    ]
    assert contract("1.2.1").program(words).parse(words)["goodput"] == ["ttft:200", "tpot:50"]


def test_what_is_not_verified_is_named():
    words = ["trtllm-serve", "serve", "m", "--grpc"]
    assert contract("1.2.1").program(words).unverified(words) == ["--grpc"]
    words = ["trtllm-bench", "--model", "m", "throughput", "--scheduler_policy", "max_utilization"]
    assert contract("1.0.0").program(words).unverified(words) == ["--scheduler_policy"]
    assert contract("1.2.1").program(words).unverified(words) == []


def test_every_source_is_used_and_every_key_is_known():
    used = set()
    for name in ("trtllm-build", "trtllm-serve", "trtllm-bench", "benchmark_serving", "entries", "llama_checkpoint"):
        text = (contracts.FOLDER / f"{name}.toml").read_text()
        used |= {key for part in text.split('source = "')[1:] for key in part.split('"')[0].split()}
    assert used == set(contracts._load("sources"))


def test_unknown_releases_and_programs_are_refused():
    with pytest.raises(WorkshopError, match=r"no contract for release '1.1.0'"):
        contract("1.1.0")
    with pytest.raises(WorkshopError, match="does not know the program"):
        contract("1.2.1").program(["pip", "install"])
