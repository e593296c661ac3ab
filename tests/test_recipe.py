"""Recipes: what a file may say, what it leads to, and what a change would do again."""

import json
import re
import shlex
from dataclasses import asdict

import pytest
import yaml
from pods import Pod

from helpers import hardware, memory, models, recipe, workspace
from helpers.errors import WorkshopError
from helpers.recipe import truss
from helpers.recipe.schema import Recipe
from helpers.toolchains import openvino
from helpers.toolchains.sizes import Sizes
from helpers.workspace import Manifest

CPU = {
    "model": "bundled",
    "gpu": "cpu",
    "max_input_len": 1000,
    "max_output_len": 1000,
    "max_batch_size": 32,
    "max_num_tokens": 2048,
    "precision": "fp16",
}


@pytest.fixture
def written(tmp_path):
    """Write a recipe's text, and read it."""

    def read(text: str | bytes) -> Recipe:
        file = tmp_path / "trial.yaml"
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return recipe.load(file)

    return read


def refused(read, text) -> str:
    with pytest.raises(WorkshopError) as problem:
        read(text)
    return str(problem.value)


def changed(**fields) -> str:
    return yaml.safe_dump({**CPU, **fields})


# What a file may say.


def test_the_recipes_that_the_notebook_needs_are_there():
    assert set(recipe.names()) >= {
        *("tinyllama-fp16-rtx-4090", "tinyllama-fp8-rtx-4090", "tinyllama-int8-a10g", "tinyllama-int8-a10g-talk"),
        *("llama-3-8b-fp8-h100", "tinyllama-fp8-2x-rtx-4090", "bundled-cpu", "bundled-fp8-cpu"),
        "llama-3-8b-fp16-2x-rtx-4090",
    }


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_loads_says_what_it_is_for_and_survives_being_written(name, tmp_path):
    file = recipe.FOLDER / f"{name}.yaml"
    assert file.read_text().startswith("# ")
    made = recipe.load(name)
    assert made.name == name
    copy = tmp_path / f"{name}.yaml"
    copy.write_text(made.to_yaml())
    assert recipe.load(copy) == made
    assert made == recipe.load(f"data/recipes/{name}.yaml")


def test_a_recipe_gives_the_stages_what_they_take():
    made = recipe.load("tinyllama-fp8-rtx-4090")
    assert (made.max_seq_len, made.kv, made.on_cpu) == (2000, "fp8", False)
    assert made.sizes == Sizes(64, 8192, 1000, 2000)
    options = made.serve_options()
    assert (options.sizes, options.port, options.kv_share) == (made.sizes, 0, memory.KV_SHARE)


def test_the_usual_kv_cache_depends_on_the_machine_and_a_named_one_does_not():
    on_gpu, on_cpu = recipe.load("tinyllama-fp8-rtx-4090"), recipe.load("bundled-fp8-cpu")
    assert (on_gpu.kv, on_cpu.kv) == ("fp8", None)
    assert (on_gpu.changed(kv_cache="fp16").kv, on_cpu.changed(kv_cache="int8").kv) == (None, "int8")


def test_a_recipe_shows_its_fields_and_its_remarks():
    made = recipe.load("tinyllama-int8-a10g-talk")
    for face in (str(made), made._repr_html_()):
        assert "max_output_len: 2000" in face
        assert "4,000 tokens, and TinyLlama has 2,048 positions" in face


def test_several_mistakes_are_told_at_once_each_with_line_finding_and_nearest_spelling(written):
    said = refused(
        written,
        """model: Tinylama
gpu: rtx-4900
max_input_len: '64'
max_output_len: true
max_batch_size: 0
precision: fp18
kv_cache: u8
tp_size: 2
port: 3
serving: {prt: 8, port: 70000, kv_cache_share: 0}
calibration: {texts: 129}
""",
    )
    for pattern in (
        r"model \(line 1\): .*'Tinylama'.*Did you mean 'TinyLlama'\?",
        r"gpu \(line 2\): .*'rtx-4900'.*Did you mean 'rtx-4090'\?.*'cpu'",
        r"max_input_len \(line 3\): found '64'\. Write a whole number, such as 1000, without quotes\.",
        r"max_output_len \(line 4\): found true\. Write a whole number, such as 1000\.\n",
        r"max_batch_size \(line 5\): found 0\.",
        r"max_num_tokens: missing\.",
        r"precision \(line 6\): found 'fp18'\. Write one of fp16, fp8, .*Did you mean 'fp8'\?",
        r"kv_cache \(line 7\): found 'u8'.*Did you mean 'int8'\?",
        r"tp_size \(line 8\): .*Did you mean 'tensor_parallel_size'\?",
        r"\n  port \(line 9\): .*Did you mean 'serving\.port'\?",
        r"serving\.prt \(line 10\): .*Did you mean 'serving\.port'\?",
        r"serving\.port \(line 10\): found 70000\. Write a whole number from 0 to 65535, or null",
        r"serving\.kv_cache_share \(line 10\): found 0\. Write a number above 0 and at most 1",
        r"calibration\.texts \(line 11\): found 129\. Write a whole number from 1 to 128",
    ):
        assert re.search(pattern, said), pattern
    lines = [int(line) for line in re.findall(r"\(line (\d+)\)", said)]
    assert lines == sorted(lines) and said.splitlines()[-1].startswith("  max_num_tokens: missing")


def test_a_misspelt_field_is_told_once_and_not_as_missing_too(written):
    said = refused(written, changed().replace("max_batch_size", "max_batchsize").replace("gpu", "GPUs"))
    told = sorted(re.findall(r"^  (\w+) .*Did you mean '(\w+)'", said, re.MULTILINE))
    assert told == [("GPUs", "gpu"), ("max_batchsize", "max_batch_size")]
    assert "missing" not in said
    slip = refused(written, changed().replace("max_num_tokens", "max_num_token"))
    assert "Did you mean 'max_num_tokens'" in slip and "secret" not in slip


@pytest.mark.parametrize(
    "found, meant",
    [("4090", "rtx-4090"), ("4900", "rtx-4090"), ("A10", "a10g"), ("rtx 4090 ti", "rtx-4090"), ("'4900'", "rtx-4090")],
)
def test_a_gpu_is_answered_with_the_nearest_even_where_it_is_a_number(written, found, meant):
    assert f"Did you mean '{meant}'?" in refused(written, changed(gpu="PLACE").replace("PLACE", found))


def test_a_recipe_may_be_given_by_its_name_or_its_file_and_nothing_else():
    made = recipe.load("bundled-cpu")
    for what in (made, "bundled-cpu", recipe.FOLDER / "bundled-cpu.yaml"):
        assert recipe.given(what) == made
        assert str(recipe.plan(what)) == str(recipe.plan(made))
    assert recipe.twin("bundled-cpu", "fp8") == recipe.pair("bundled-cpu")[1]
    assert str(recipe.remarks("bundled-cpu")) == str(recipe.remarks(made))
    assert not recipe.diff("bundled-cpu", made).changes
    calls = (recipe.plan, recipe.run, recipe.pair, recipe.remarks, truss.export, truss.predict_call)
    for call in (*calls, lambda what: recipe.diff(made, what), lambda what: recipe.twin(what, "fp8")):
        with pytest.raises(WorkshopError, match=r"this is a dict\. Give what recipe\.load"):
            call({"model": "bundled"})


def test_the_share_of_a_recipe_is_the_planners_in_every_file():
    shares = {recipe.load(name).serving.kv_cache_share for name in recipe.names()}
    assert shares == {memory.KV_SHARE}
    assert truss.export("llama-3-8b-fp8-h100").config["trt_llm"]["runtime"]["kv_cache_free_gpu_mem_fraction"] in shares


@pytest.mark.parametrize(
    "field, meant",
    [
        ("quantization_type", "'precision'"),
        ("tensor_parallel_count", "'tensor_parallel_size'"),
        ("accelerator", "'gpu'"),
        ("free_gpu_memory_fraction", "serving.kv_cache_share"),
        ("enable_chunked_context", "serving.chunked_prefill"),
        ("max_seq_len", "sum of max_input_len and max_output_len"),
        ("max-batch-size", "max_batch_size"),
        ("kv_cach", "'kv_cache'"),
        ("zebra", "Allowed are model, revision, gpu"),
    ],
)
def test_what_other_programs_call_a_field_is_known(written, field, meant):
    said = refused(written, changed(**{field: 3}))
    assert meant in said and f"{field} (line" in said


@pytest.mark.parametrize(
    "found, meant", [("smooth_quant", "int8"), ("weights_int8", "int8_wo"), ("no_quant", "fp16"), ("awq", "int4_awq")]
)
def test_what_other_programs_call_a_precision_is_known(written, found, meant):
    assert f"Did you mean '{meant}'?" in refused(written, changed(precision=found))


@pytest.mark.parametrize("value", ["1.5", "true", "'64'", "[64]", "{a: 1}", "", "-1", "2147483648", "9" * 5000, ".inf"])
def test_a_size_is_a_whole_number_and_nothing_else(written, value):
    said = refused(written, changed().replace("max_batch_size: 32", f"max_batch_size: {value}"))
    wide = value in ("-1", "2147483648", "9" * 5000)
    assert "max_batch_size (line" in said
    assert ("a whole number from 1 to 2,147,483,647." if wide else "a whole number, such as 64") in said
    assert ("without quotes" in said) == (value == "'64'")
    assert len(said) < 300


def test_a_secret_is_refused_and_not_repeated(written):
    for field in ("hf_token", "api_key", "apikey", "password"):
        said = refused(written, changed(**{field: "hf_abcdefghijklmnop"}))
        assert "HF_TOKEN" in said and "hf_abc" not in said
    said = refused(written, changed(serving={"api_key": "swordfish"}))
    assert "serving.api_key" in said and "swordfish" not in said
    assert "hf_abc" not in refused(written, changed(model="hf_abcdefghijklmnopqrstuv"))
    assert "hf_abc" not in refused(written, changed(hf_abcdefghijklmnopqrstuv=1))


@pytest.mark.parametrize(
    "field",
    ["accessToken", "apiKey", "HFToken", "hf-token", "api_keys", "clientSecret", "private_key", "authorization"],
)
def test_a_secret_is_known_by_its_name_however_it_is_written(written, field):
    said = refused(written, changed(serving={field: "swordfish"}))
    assert f"serving.{field} (line" in said and "a secret has no place" in said and "swordfish" not in said


@pytest.mark.parametrize(
    "fields, place",
    [
        ({"model": {"token": "supersecret123"}}, "model.token"),
        ({"calibration": {"texts": {"api_key": "supersecret123"}}}, "calibration.texts.api_key"),
        ({"serving": [{"api_key": "supersecret123"}]}, "serving.0.api_key"),
        ({"revision": "hf_supersecret1234"}, "revision"),
        ({"model": "owner/hf_supersecret1234"}, "model"),
        ({"serving": {"host": "sk-supersecret1234"}}, "serving.host"),
        ({"precision": ["nvapi-supersecret1234"]}, "precision.0"),
        ({"gpu": {"name": ["supersecret123"]}, "max_batch_size": ["supersecret123"]}, ""),
    ],
)
def test_a_secret_is_not_repeated_wherever_it_stands(written, fields, place):
    said = refused(written, changed(**fields))
    assert "supersecret" not in said
    assert not place or re.search(rf"^  {place} \(line \d+\): a secret has no place", said, re.MULTILINE)


def test_what_only_resembles_a_secret_is_none():
    assert recipe.parse({**CPU, "model": "owner/task-abcdefghijklmnopqr"}).model == "owner/task-abcdefghijklmnopqr"


@pytest.mark.parametrize("name", ["", ".", "..", "./", "/", "~", " "])
def test_a_name_that_is_none_is_no_model(written, name):
    assert "That names no model" in refused(written, changed(model=name))


def test_another_word_is_not_taken_for_a_slip(written):
    assert "Did you mean" not in refused(written, changed(authentication=1))


def test_a_folder_that_is_no_model_is_a_problem_and_no_exception(tmp_path):
    for gpu in ("cpu", "rtx-4090"):
        made = recipe.parse({**CPU, "model": str(tmp_path), "gpu": gpu})
        [problem] = recipe.problems(made)
        assert problem.field == "model" and "it has no config.json" in problem.text
        assert "no config.json" in str(made) and "no config.json" in made._repr_html_() + repr(made)
        plan = recipe.plan(made)
        assert not plan.steps and "no config.json" in str(plan)


@pytest.mark.parametrize(
    "text, said",
    [
        ("", "is empty"),
        ("# only a comment\n", "is empty"),
        ("- model: bundled\n", "holds a list at the top"),
        ("bundled\n", "holds a single value"),
        ("model: a\n\tgpu: b\n", r"line 2, column 1 .*Indent with spaces"),
        ("model: a: b\n", r"line 1, column 9 is no YAML"),
        ("model: a\nmodel: b\n", r"line 2: model is there twice, first in line 1"),
        ("serving:\n  port: 1\n  port: 2\n", r"line 3: serving\.port is there twice"),
        ("model: &x a\ngpu: *x\n", r"line 1: a recipe has no anchors"),
        ("a: " + "[" * 5000, r"goes deeper than 8"),
        ("a: \x01\n", r"is no YAML: unacceptable character"),
        ("model: !!python/name:os.system x\n", r"line 1: a recipe has no tags"),
        ("gpu: !!int x\n", r"line 1: a recipe has no tags"),
        ("model: ~nobody-at-all/x\n", r"no folder '~nobody-at-all/x'"),
        ("a: 1\n---\nb: 2\n", r"another document"),
        ("? [a]\n: b\n", r"line 1: a field's name is text"),
        ("# " + "x" * 70_000, r"has 70,002 bytes and is no recipe"),
        (b"model: \xff\xfe\n", r"no text in UTF-8"),
        ("1: a\n", r"  1 \(line 1\): a field's name is text"),
        ("serving: 3\n", r"serving \(line 1\): found 3\. It has fields of its own: host, port"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused_with_the_place(written, text, said):
    assert re.search(said, refused(written, text), re.DOTALL)


def test_words_that_older_yaml_reads_as_something_else_stay_words(written):
    # YAML 1.1 makes true of yes, a date of 2024-01-01, and 1342 of 22:22.
    said = refused(written, changed(serving="PLACE").replace("PLACE", "{chunked_prefill: yes, port: 22:22}"))
    assert "found 'yes'" in said and "found '22:22'" in said


def test_a_recipe_that_is_not_there_is_answered_with_the_nearest():
    with pytest.raises(WorkshopError, match=r"no recipe 'bundled-cp'\. Did you mean 'bundled-cpu'\?"):
        recipe.load("bundled-cp")
    with pytest.raises(WorkshopError, match=r"no recipe 'nowhere/x.yaml'"):
        recipe.load("nowhere/x.yaml")
    with pytest.raises(WorkshopError, match=r"no recipe 'xxx"):
        recipe.load("x" * 5000)
    with pytest.raises(WorkshopError, match=r"is a folder"):
        recipe.load(recipe.FOLDER)


def test_names_are_taken_as_people_write_them():
    made = recipe.parse({**CPU, "model": "tinyllama/tinyllama-1.1b-chat-v1.0", "gpu": "4090"})
    assert (made.model, made.gpu) == ("TinyLlama", "rtx-4090")


def test_only_a_model_of_the_hub_has_a_revision():
    with pytest.raises(WorkshopError, match=r"revision: found 'abc'\. Only a model of the Hugging Face hub"):
        recipe.parse({**CPU, "revision": "abc"})
    with pytest.raises(WorkshopError, match=r"revision: .*40 hexadecimal digits"):
        recipe.parse({**CPU, "model": "TinyLlama", "revision": "../up"})
    assert recipe.parse({**CPU, "model": "TinyLlama", "revision": "v0.6"}).source == "TinyLlama@v0.6"


def test_a_recipe_cannot_be_changed_in_place():
    made = recipe.load("bundled-cpu")
    with pytest.raises(ValueError, match="frozen"):
        made.max_batch_size = 3
    other = made.changed(max_batch_size=3, serving__port=80)
    assert (other.max_batch_size, other.serving.port, made.max_batch_size) == (3, 80, 32)
    with pytest.raises(WorkshopError, match="max_batch_size: found 0"):
        made.changed(max_batch_size=0)


# What it leads to.


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_has_a_plan_on_this_machine(name):
    made = recipe.plan(recipe.load(name))
    first = ["graph"] if made.recipe.on_cpu else ["install", "download", "checkpoint"]
    assert [step.kind for step in made.steps] == [*first, "engine", "serve"]
    assert not made.problems
    for face in (str(made), made._repr_html_()):
        assert "predicted" in face
    assert not [step for step in made.steps if step.done], "this workspace is empty"


@pytest.mark.parametrize("name", recipe.names())
def test_a_plan_begins_with_what_a_terminal_is_told_and_that_is_no_stage(name):
    made = recipe.plan(name)
    for face in (str(made), made._repr_html_()):
        assert face.index("export WORKSHOP_HOME=") < face.index("$WORKSHOP_HOME/")
        assert ("export NCCL_P2P_DISABLE=1" in face) == (made.recipe.tensor_parallel_size == 2)
        assert ("OMPI_ALLOW_RUN_AS_ROOT" in face) == (not made.recipe.on_cpu)
    assert "settings" not in [step.kind for step in made.missing]
    assert "settings" not in made.verdict


def test_a_plan_for_this_machine_is_kept_where_this_machine_keeps_things(own_home):
    assert f"export WORKSHOP_HOME={own_home}\n" in str(recipe.plan("bundled-cpu"))
    assert str(own_home) not in str(recipe.plan("tinyllama-fp8-rtx-4090"))


def installed(pod: Pod, version: str, python, adopted: bool = True) -> None:
    """Record an installation in the pod's workspace, as if it had been verified."""
    place = pod.home / "releases" / version
    place.mkdir(parents=True)
    python.parent.mkdir(parents=True, exist_ok=True)
    python.touch()
    (place / "probe.json").write_text(json.dumps({"versions": {}, "programs": {}, "entries": {}}))
    artifact(place, Manifest("release", version, {"release": version, "python": str(python), "adopted": adopted}))


def artifact(place, made: Manifest) -> None:
    """An artifact of no files, whose manifest is all that a plan reads."""
    place.mkdir(parents=True, exist_ok=True)
    (place / workspace.MANIFEST).write_text(json.dumps(asdict(made)))


def test_a_graph_of_other_packages_is_not_there_already(own_home):
    place, inputs = own_home / "graphs" / "bundled", {"model": models.find().digest}
    for maker, there in ((openvino.graph_maker(), True), ({**openvino.graph_maker(), "optimum-intel": "0.1"}, False)):
        artifact(place, Manifest("graph", "", inputs=inputs, maker=maker))
        [graph] = [step for step in recipe.plan("bundled-cpu").steps if step.kind == "graph"]
        assert (graph.done, "(on this machine already)" in graph.heading) == (there, there)


def test_weights_that_are_laid_out_for_another_gpu_are_not_there_already(own_home):
    made = recipe.load("tinyllama-int8-a10g-talk")
    [step] = [step for step in recipe.plan(made).steps if step.kind == "checkpoint"]
    place = own_home / step.step.makes.removeprefix("$WORKSHOP_HOME/")
    for capability, there in (("8.6", True), ("8.0", False)):
        artifact(place, Manifest("checkpoint", "", machine={"compute_capability": capability}))
        assert ["checkpoint" in [s.kind for s in recipe.plan(made).steps if s.done]] == [there]


def test_on_the_machine_itself_a_plan_has_the_release_that_is_used_there(tmp_path, monkeypatch):
    assert "tensorrt_llm==1.2.1" in str(recipe.plan("tinyllama-int8-a10g"))
    pod = Pod("a10g", tmp_path / "workshop")  # its driver is too old for 1.2.1
    pod.enter(monkeypatch)
    before = recipe.plan("tinyllama-int8-a10g")
    assert "tensorrt_llm==1.0.0" in str(before) and before.missing[0].kind == "install"
    assert "tensorrt_llm==1.2.1" in str(recipe.plan("tinyllama-fp8-rtx-4090")), "that is another machine"
    python = tmp_path / "image" / "bin" / "python"
    installed(pod, "1.0.0", python)
    after = recipe.plan("tinyllama-int8-a10g")
    assert [step.kind for step in after.steps if step.done] == ["install"]
    assert "tensorrt_llm==" not in str(after) and f"export WORKSHOP_HOME={pod.home}\n" in str(after)
    assert words(after, "engine")[0] == str(python.parent / "trtllm-build")


def words(made, kind: str) -> list[str]:
    [step] = [step for step in made.steps if step.kind == kind]
    return shlex.split(step.step.lines[-1].replace("\\\n", ""))


def test_a_plan_says_what_the_recipe_says():
    asked = recipe.load("tinyllama-fp8-2x-rtx-4090").changed(calibration__texts=16, serving__host="0.0.0.0")
    made = recipe.plan(asked)
    quantize, build, serve = (words(made, kind) for kind in ("checkpoint", "engine", "serve"))
    assert quantize[quantize.index("--calibration-texts") + 1] == "16"
    assert build[build.index("--checkpoint_dir") + 1].endswith("/fp8-kv-fp8-tp2-c16")
    assert build[build.index("--max_seq_len") + 1] == "2000"
    assert serve[serve.index("--host") + 1] == "0.0.0.0"
    assert serve[serve.index("--kv_cache_free_gpu_memory_fraction") + 1] == "0.8"


def test_another_revision_is_downloaded_into_a_folder_of_its_own():
    pinned = recipe.load("tinyllama-fp16-rtx-4090")
    other = recipe.plan(pinned.changed(revision="a" * 40))
    fetch = words(other, "download")
    assert fetch[fetch.index("--revision") + 1] == "a" * 40
    assert "--sha256" not in fetch and "--sha256" in words(recipe.plan(pinned), "download")
    assert words(other, "engine") != words(recipe.plan(pinned), "engine")


def test_a_model_that_only_the_hub_knows_has_a_plan_without_a_download():
    made = recipe.plan(recipe.load("tinyllama-fp16-rtx-4090").changed(model="someone/another-llama"))
    fetch = words(made, "download")
    assert fetch[fetch.index("--repository") + 1] == "someone/another-llama" and "--revision" in fetch
    assert made.fit is None and "not known before" in str(made)
    assert [step.step.size for step in made.steps] == [0] * 5


def test_a_recipe_whose_commands_cannot_be_written_has_a_plan_that_says_why():
    made = recipe.plan(recipe.load("tinyllama-int8-a10g").changed(precision="fp8"))
    assert not made.steps
    assert "FP8 (E4M3) cannot be built for the A10G" in str(made) and "stands in the way" in made.verdict


def test_a_recipe_for_another_machine_is_not_run_here():
    with pytest.raises(
        WorkshopError,
        match=r"is for GeForce RTX 4090, and here is no GPU .*helpers plan tinyllama-fp8-rtx-4090`.*'bundled-cpu'",
    ):
        recipe.run(recipe.load("tinyllama-fp8-rtx-4090"))


def test_a_recipe_with_a_problem_is_not_run():
    with pytest.raises(WorkshopError, match=r"cannot be run:\n  max_input_len: .*2,048 positions"):
        recipe.run(recipe.load("bundled-cpu").changed(max_output_len=2000))


def machine_of(name: str, capability: list[int], gigabytes: float, count: int = 1) -> str:
    """A machine with GPUs that no table has, as ``tests/doubles`` takes it."""
    gpu = {"name": name, "capability": capability, "memory": int(gigabytes * 1024**3)}
    return json.dumps({"driver": "580.65.06", "cuda": 13000, "count": count, "gpu": gpu})


IN_NO_TABLE = {
    "RTX 4080": machine_of("NVIDIA GeForce RTX 4080", [8, 9], 15.99),
    "RTX 3080": machine_of("NVIDIA GeForce RTX 3080", [8, 6], 9.99),
    "H100 NVL": machine_of("NVIDIA H100 NVL", [9, 0], 93.6),
}


@pytest.mark.parametrize(
    "machine, name",
    [
        ("rtx-4090", "tinyllama-fp8-rtx-4090"),
        ("a10g", "tinyllama-int8-a10g"),
        ("h100", "tinyllama-fp8-h100"),
        ("a100", "tinyllama-int8-a100-80gb"),
        ("b200", "tinyllama-fp8-b200"),
        ("", "bundled-cpu"),
        ("RTX 4080", "tinyllama-fp8-rtx-4090"),
        ("RTX 3080", "tinyllama-int8-a10g"),
        ("H100 NVL", "tinyllama-fp8-h100"),
    ],
)
def test_every_machine_has_a_recipe(machine, name, tmp_path, monkeypatch):
    Pod(IN_NO_TABLE.get(machine, machine), tmp_path).enter(monkeypatch)
    monkeypatch.delenv("WORKSHOP_MODEL")
    made = recipe.for_this_machine()
    assert made.name == name
    assert not recipe.problems(made)
    recipe.require_machine(made)


def test_a_recipe_with_another_model_is_called_after_it(tmp_path, monkeypatch):
    Pod("rtx-4090", tmp_path).enter(monkeypatch)
    for model, name in (("bundled", "bundled"), ("TinyLlama", "tinyllama"), ("some-one/A_Llama.3", "a-llama.3")):
        monkeypatch.setenv("WORKSHOP_MODEL", model)
        made = recipe.for_this_machine()
        assert (made.model, made.name) == (model, f"{name}-fp8-rtx-4090")


def test_a_gpu_of_a_generation_in_no_table_is_told_of_the_cpu(tmp_path, monkeypatch):
    Pod(machine_of("NVIDIA Jetson Orin", [8, 7], 32), tmp_path).enter(monkeypatch)
    with pytest.raises(WorkshopError, match=r"capability 8\.7, that of the NVIDIA Jetson Orin here.*=openvino"):
        recipe.here._sheet(hardware.supported_gpu(hardware.look()))


def test_a_recipe_for_another_gpu_or_for_a_cpu_is_not_run_on_a_pod(tmp_path, monkeypatch):
    Pod("rtx-4090", tmp_path).enter(monkeypatch)
    with pytest.raises(WorkshopError, match=r"is for H100 SXM \(compute capability 9\.0\).*RTX 4090 \(8\.9\)"):
        recipe.run(recipe.load("llama-3-8b-fp8-h100"))
    with pytest.raises(WorkshopError, match=r"is for a CPU, and this machine builds for its NVIDIA GeForce RTX 4090"):
        recipe.run(recipe.load("bundled-cpu"))
    recipe.require_machine(recipe.load("tinyllama-fp8-rtx-4090").changed(gpu="l4"))  # of the same capability


def test_what_a_machine_lacks_is_told_before_anything_is_downloaded(tmp_path, monkeypatch):
    pod = Pod(IN_NO_TABLE["RTX 4080"], tmp_path / "workshop")
    pod.enter(monkeypatch)
    made = recipe.load("tinyllama-fp8-rtx-4090")
    with pytest.raises(WorkshopError, match=r"TensorRT-LLM is not installed .*helpers install"):
        recipe.run(made)
    installed(pod, "1.2.1", tmp_path / "image" / "bin" / "python")
    recipe.require_here(made)
    with pytest.raises(WorkshopError, match=r"2 ranks needs 2 GPUs .* here is 1 NVIDIA GeForce RTX 4080"):
        recipe.run("tinyllama-fp8-2x-rtx-4090")
    large = made.changed(model="Llama-3.1-8B-Instruct", precision="fp16")
    assert not recipe.problems(large), "it fits the 24 GB that the recipe names"
    with pytest.raises(WorkshopError, match=r"does not fit on one NVIDIA GeForce RTX 4080: its weights take 16\.06 GB"):
        recipe.run(large)
    long = made.changed(model="Llama-3.1-8B-Instruct", max_output_len=120_000)
    with pytest.raises(WorkshopError, match=r"holds [\d,]+ tokens, and one request may have 121,000"):
        recipe.run(long)
    assert not (pod.home / "models").exists()


def test_a_pair_is_two_recipes_that_can_run_at_the_same_time():
    made = recipe.load("tinyllama-fp8-rtx-4090").changed(serving__port=8000, kv_cache="int8")
    left, right = recipe.pair(made)
    assert (left.serving.port, right.serving.port) == (8000, None)
    assert (left.precision, right.precision) == ("fp16", "fp8")
    assert (left.serving.kv_cache_share, right.serving.kv_cache_share) == (0.4, 0.6)
    for one in recipe.pair(made.changed(gpu="b200", kv_cache="fp8")):
        assert not recipe.problems(one)


def test_where_the_other_weights_have_no_such_kv_cache_the_pair_takes_what_goes_best():
    cpu = recipe.load("bundled-cpu").changed(kv_cache="fp8")
    assert [one.kv_cache for one in recipe.pair(cpu)] == ["auto", "auto"]
    assert [one.kv_cache for one in recipe.pair(cpu.changed(kv_cache="int8"))] == ["int8", "int8"]


def test_a_pair_that_does_not_fit_one_gpu_is_refused_with_a_way_out():
    large = recipe.load("llama-3-8b-fp8-h100")
    assert len(recipe.pair(large)) == 2
    with pytest.raises(
        WorkshopError, match=r"^predicted: .* in FP16 and in FP8 .* one GeForce RTX 4090 at the same time.*recipe\.twin"
    ):
        recipe.pair(large.changed(gpu="rtx-4090", max_input_len=1000))


@pytest.mark.parametrize(
    "name, own, other, twin",
    [
        ("tinyllama-int8-a10g-talk", "int8_wo", "fp16", "tinyllama-fp16-a10g-talk"),
        ("x-int4-a100", "int4_awq", "fp16", "x-fp16-a100"),
        ("x-int8_wo-a100", "int8_wo", "fp16", "x-fp16-a100"),
        ("mine", "int8", "fp16", "mine-fp16"),
        ("x-int8-a10g", "int8", "int8", "x-int8-a10g"),
    ],
)
def test_a_twin_is_called_by_its_own_precision(name, own, other, twin):
    made = recipe.load("tinyllama-int8-a10g-talk").changed(name, precision=own, max_batch_size=63)
    assert recipe.twin(made, other).name == twin


def test_a_twin_differs_in_its_precision_and_is_the_one_of_the_folder_where_there_is_one():
    made = recipe.load("tinyllama-fp8-rtx-4090")
    assert recipe.twin(made, "fp16").name == "tinyllama-fp16-rtx-4090"
    assert recipe.twin(recipe.load("bundled-cpu"), "fp8").name == "bundled-fp8-cpu"
    other = recipe.twin(made, "int8")
    assert (other.name, other.precision, other.sizes) == ("tinyllama-int8-rtx-4090", "int8", made.sizes)


@pytest.mark.slow
def test_what_is_built_is_not_built_again_and_the_plan_knows(made_by_notebooks):
    asked = recipe.load("bundled-cpu")
    assert made_by_notebooks.returncode == 0
    made = recipe.run(asked)
    assert made.reused
    plan = recipe.plan(asked)
    assert [(step.kind, step.done) for step in plan.steps] == [("graph", True), ("engine", True), ("serve", False)]
    assert "All is made" in plan.verdict
    [engine] = [step for step in plan.steps if step.kind == "engine"]
    assert engine.step.makes.replace("$WORKSHOP_HOME", str(workspace.home())) == str(made.path)
    assert engine.step.size == pytest.approx(made.bytes, rel=0.2)


# What a change does again.

GPU = "tinyllama-fp8-rtx-4090"


@pytest.mark.parametrize(
    "name, fields, effect",
    [
        (GPU, {"max_batch_size": 128}, "new build; download and quantization unchanged"),
        (GPU, {"max_input_len": 500}, "new build; download and quantization unchanged"),
        (GPU, {"gpu": "h100"}, "new build; download and quantization unchanged"),
        (GPU, {"precision": "int8"}, "new quantization and new build; download unchanged"),
        (GPU, {"kv_cache": "fp16"}, "new quantization and new build; download unchanged"),
        (GPU, {"calibration__texts": 64}, "new quantization and new build; download unchanged"),
        (GPU, {"tensor_parallel_size": 2}, "new quantization and new build; download unchanged"),
        (GPU, {"revision": "b" * 40}, "new download and new quantization and new build"),
        (GPU, {"kv_cache": "fp8"}, "nothing: auto is fp8 beside these weights"),
        ("bundled-cpu", {"kv_cache": "fp16"}, "nothing: auto is fp16 on a CPU"),
        (GPU, {"serving__port": 8000}, "nothing is built; the server starts again"),
        (GPU, {"serving__kv_cache_share": 0.5}, "nothing is built; the server starts again"),
        (GPU, {"serving__chunked_prefill": True}, "nothing is built; the server starts again"),
        (GPU, {"serving__max_queue": 1}, "nothing: no stage here is told of it"),
        ("tinyllama-fp16-rtx-4090", {"calibration__texts": 64}, "nothing: no stage here is told of it"),
        ("tinyllama-fp16-rtx-4090", {"max_batch_size": 32}, "new build; download and conversion unchanged"),
        ("bundled-cpu", {"max_batch_size": 64}, "nothing is built; the server starts again (an OpenVINO engine has"),
        ("bundled-cpu", {"serving__max_queue": 8}, "nothing is built; the server starts again"),
        ("bundled-cpu", {"precision": "fp8"}, "new build; graph unchanged"),
        ("bundled-cpu", {"kv_cache": "int8"}, "new build; graph unchanged"),
    ],
)
def test_each_field_does_again_what_reads_it(name, fields, effect):
    made = recipe.load(name)
    shown = recipe.diff(made, made.changed("other", **fields))
    [change] = shown.changes
    assert change.effect.startswith(effect)
    assert shown.redone == change.redone
    assert ("nothing is built" in shown.verdict) == ("engine" not in shown.redone)


def test_weights_that_are_laid_out_for_one_capability_are_made_again_for_another():
    made = recipe.load("tinyllama-int8-a10g-talk")  # INT8, weights alone
    again = recipe.diff(made, made.changed(gpu="a100-80gb"))
    assert again.redone == ("checkpoint", "engine", "serve")
    [checkpoint] = [stage for stage in again.stages if stage.step.kind == "checkpoint"]
    assert checkpoint.why == "its weights are laid out for one compute capability: 8.6 → 8.0"
    assert recipe.diff(made, made.changed(gpu="rtx-3090")).redone == ("engine", "serve")
    smooth = made.changed(precision="int8")
    assert recipe.diff(smooth, smooth.changed(gpu="a100-80gb")).redone == ("engine", "serve")


def test_fields_that_only_go_together_say_so_and_the_whole_is_still_told():
    shown = recipe.diff(recipe.load(GPU), recipe.load("tinyllama-int8-a10g"))
    by_field = {change.field: change for change in shown.changes}
    assert by_field["gpu"].effect.startswith("not by itself: ") and "A10G" in by_field["gpu"].effect
    assert shown.redone == ("checkpoint", "engine", "serve")
    assert "Used as it is: installation, download." in str(shown) and "A10G" in shown._repr_html_()


def test_one_table_has_one_word_for_each_stage_and_its_title_says_what_changed():
    shown = str(recipe.diff("tinyllama-int8-a10g-talk", "tinyllama-int8-a10g"))  # convert_checkpoint, then ModelOpt
    assert "quantization" in shown and "conversion" not in shown
    assert "what happens" in shown and "same command, same inputs" in shown
    made = recipe.load(GPU)
    assert f"Recipe {GPU} → with kv_cache: fp16\n" in str(recipe.diff(made, made.changed(kv_cache="fp16")))


def test_a_port_that_is_named_starts_the_server_again_and_changes_no_command():
    made = recipe.load(GPU)
    shown = recipe.diff(made, made.changed(serving__port=8000))
    assert shown.stages[-1].why == "it listens on another port"
    assert "# port 8000 stands for any" in str(recipe.plan(made))
    assert "stands for any" not in str(recipe.plan(made.changed(serving__port=8000)))


def test_a_plan_for_another_machine_says_so_and_folds_the_installation():
    made = recipe.plan(GPU)
    assert "reachable from that machine only (127.0.0.1)" in str(made)
    assert "on this machine only" in str(recipe.plan("bundled-cpu"))
    assert re.search(r"<details[^>]*><summary>TensorRT-LLM \S+ into .*?</details>", made._repr_html_(), re.DOTALL)


def test_the_overview_says_the_remarks_in_a_few_words_and_wraps_no_name():
    shown = recipe.overview()
    for words_ in ("gated: needs HF_TOKEN", "4,000 tokens > 2,048 positions", "no peer-to-peer"):
        assert words_ in str(shown)
    for name in recipe.names():
        assert re.search(rf"<tr><td style='white-space:nowrap;[^']*'>{name}</td>", shown._repr_html_())


def test_from_a_cpu_to_a_gpu_everything_is_new():
    shown = recipe.diff(recipe.load("bundled-cpu"), recipe.load(GPU))
    assert shown.redone == ("install", "download", "checkpoint", "engine", "serve")
    assert shown.dropped == ("graph",)
    assert "Not needed any more: graph" in shown.verdict


def test_a_recipe_against_itself_has_nothing_to_say():
    made = recipe.load(GPU)
    assert str(recipe.diff(made, made)) == "The two recipes say the same: nothing is done again."


def test_a_recipe_without_a_plan_cannot_be_compared():
    made = recipe.load("tinyllama-int8-a10g")
    with pytest.raises(WorkshopError, match=r"has no plan to compare:\n  precision: FP8"):
        recipe.diff(made, made.changed(precision="fp8"))
