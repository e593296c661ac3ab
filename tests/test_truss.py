"""The Truss export: held against the real truss package, which is only installed for this."""

import copy
import http.server
import inspect
import itertools
import json
import logging
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml

from helpers import hardware, models, recipe
from helpers.errors import WorkshopError
from helpers.recipe import truss
from helpers.toolchains.choices import TITLES

FIELDS = {
    "model": "TinyLlama",
    "gpu": "h100",
    "max_input_len": 1000,
    "max_output_len": 1000,
    "max_batch_size": 64,
    "max_num_tokens": 8192,
    "precision": "fp8",
}


@pytest.fixture(scope="module")
def real():
    """The real package; it would ask the hub for a model's settings, and takes no answer for one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        from truss.base import trt_llm_config, truss_config

        # What it would make of an unreachable hub, without waiting for transformers to find that out.
        patch.setattr(trt_llm_config, "get_hf_config", lambda repo, revision: None)
        yield truss_config


def made(**changes):
    return recipe.parse({**FIELDS, **changes}, "trial")


def said(real, config):
    """What Truss says of a config as it reads it and as it pushes it; empty if it accepts it."""
    try:
        real.TrussConfig.from_dict(copy.deepcopy(dict(config))).validate_forbid_extra()
    except ValueError as refused:
        return str(refused)
    return ""


def held(real, export):
    """Truss's verdict on an export and ours are the same, and every word we give it is its own."""
    told = said(real, export.config)
    words = [reason.says for reason in export.refusals if reason.by == "truss"]
    assert bool(told) == bool(words), (export.config, told, words)
    # Truss stops where it finds fault first: with fields, or with the whole.
    assert not words or any(word in told for word in words), (told, words)


# --- Against the real package --------------------------------------------------------


def test_the_facts_are_of_the_installed_release(real):
    from importlib.metadata import version

    assert truss.version() == version("truss")
    assert set(truss.facts()["accelerators"].values()) <= {one.value for one in real.Accelerator}
    assert set(truss.facts()["accelerators"]) <= {sheet.key for sheet in hardware.datasheets()}


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_of_the_workshop_is_judged_as_truss_judges_it(real, name, tmp_path):
    export = truss.export(recipe.load(name))
    held(real, export)
    if not export.refusals:
        file = export.write(tmp_path / name)
        read = real.TrussConfig.from_yaml(file)
        assert read.trt_llm.build.max_seq_len == recipe.load(name).max_seq_len
        assert read.resources.accelerator.count == read.trt_llm.build.tensor_parallel_count


def test_the_workshop_has_a_recipe_that_deploys_and_some_that_do_not():
    refused = {name: bool(truss.export(recipe.load(name)).refusals) for name in recipe.names()}
    assert not refused["llama-3-8b-fp8-h100"]
    assert refused["tinyllama-int8-a10g"]
    assert refused["bundled-cpu"]


def test_truss_and_the_export_agree_over_every_gpu_precision_and_cache(real):
    gpus = [*(sheet.key for sheet in hardware.datasheets() if not sheet.slice_of), "h100-mig-3g.40gb", "cpu"]
    counted = {True: 0, False: 0}
    for gpu, precision, kv in itertools.product(gpus, TITLES, ("fp16", "fp8", "int8")):
        parallel = 2 if gpu in ("h100", "rtx-4090") else 1
        export = truss.export(made(gpu=gpu, precision=precision, kv_cache=kv, tensor_parallel_size=parallel))
        held(real, export)
        counted[bool(export.refusals)] += 1
    assert counted[False] > 20
    assert counted[True] > 100


@pytest.mark.parametrize(
    "change",
    [
        {"max_num_tokens": 64},
        {"max_num_tokens": 65},
        {"max_num_tokens": 1048576},
        {"max_num_tokens": 1048577},
        {"max_batch_size": 2048},
        {"max_batch_size": 2049},
        {"max_input_len": 1048575, "max_output_len": 1},
        {"max_input_len": 1048576, "max_output_len": 1},
        {"max_input_len": 1, "max_output_len": 1},
        {"calibration": {"texts": 1}},
        {"calibration": {"texts": 65}},
        {"serving": {"chunked_prefill": True}},
        {"serving": {"kv_cache_share": 1.0}},
        {"model": "bundled"},
        {"model": "some-one/a.model", "revision": "0123abc"},
        {"tensor_parallel_size": 3},
    ],
)
def test_truss_and_the_export_agree_at_the_ends_of_every_range(real, change):
    held(real, truss.export(made(**change)))


def test_a_folder_is_refused_in_truss_own_words(real, tmp_path):
    export = truss.export(made(model=str(tmp_path)))
    assert [reason.by for reason in export.refusals] == ["truss"]
    held(real, export)


def test_each_word_of_truss_is_heard_from_it(real):
    """One refusal at a time, so that none hides behind another."""
    trials = {
        "no_accelerator": {"gpu": "rtx-4090"},
        "too_old": {"gpu": "t4", "precision": "fp16"},
        "no_fp8": {"gpu": "a10g"},
        "no_name": {"precision": "fp16", "kv_cache": "fp8"},
        "too_small": {"max_num_tokens": 1, "max_input_len": 1},
        "no_chunks": {"precision": "int8_wo", "kv_cache": "int8", "serving": {"chunked_prefill": True}},
        "too_large": {"max_batch_size": 5000},
    }
    for kind, change in trials.items():
        export = truss.export(made(**change))
        words = truss.facts()["refusals"][kind]["says"].partition("{")[0]
        [reason] = [reason for reason in export.refusals if reason.by == "truss"]
        assert words in reason.says, kind
        assert reason.says in said(real, export.config)


def test_the_legacy_types_are_read_and_their_end_is_only_written_in_the_source(real):
    from truss.base import trt_llm_config

    comment = " ".join(re.findall(r"# (.*)", inspect.getsource(trt_llm_config.TrussTRTLLMQuantizationType)))
    words = truss.facts()["refusals"]["legacy"]["says"]
    assert words in re.sub(r"\s+", " ", comment)
    for weights, kv, name in truss.facts()["quantization"]["names"]:
        export = truss.export(made(precision=weights, kv_cache=kv))
        assert export.config["trt_llm"]["build"]["quantization_type"] == name
        assert said(real, export.config) == ""
        legacy = name in truss.facts()["quantization"]["legacy"]
        assert [reason.by for reason in export.refusals] == (["published"] if legacy else [])


def test_defaults_that_the_table_speaks_of_are_truss_own(real):
    from truss.base import constants, trt_llm_config

    known = truss.facts()
    calibration = trt_llm_config.TrussTRTQuantizationConfiguration()
    assert calibration.calib_dataset == known["calibration"]["dataset"]
    assert calibration.calib_max_seq_length == known["calibration"]["length"]
    assert trt_llm_config.TrussTRTLLMRuntimeConfiguration().enable_chunked_context is True
    assert trt_llm_config.CheckpointRepository(source="HF", repo="a/b").runtime_secret_name == known["secret"]
    assert f"{constants.TRTLLM_MIN_MEMORY_REQUEST_GI}Gi" == known["memory"]
    assert known["tag"] == constants.OPENAI_COMPATIBLE_TAG
    place = Path(constants.__file__).parents[1]
    assert known["warnings"]["fp8"] in (place / "cli" / "cli.py").read_text()
    with pytest.raises(ValueError, match="must be a multiple of 64"):
        trt_llm_config.TrussTRTQuantizationConfiguration(calib_size=100)


# --- The talk ------------------------------------------------------------------------


def without(config, setting):
    config = copy.deepcopy(config)
    *above, last = setting.split(".")
    place = config
    for name in above:
        place = place[name]
    del place[last]
    return config


def test_the_talks_config_fails_for_the_reasons_that_are_shown(real, caplog):
    talk = truss.talk_config()
    rows = {row["setting"].rpartition(".")[2]: row for row in truss.facts()["talk"]["settings"]}
    assert rows["base_model"]["says"] in said(real, talk.config)
    mended = copy.deepcopy(talk.config)
    mended["trt_llm"]["build"]["base_model"] = "decoder"
    with caplog.at_level(logging.WARNING):
        assert said(real, mended) == ""  # INT8 and both lengths included
    assert truss.facts()["talk"]["missing"][0]["says"] in caplog.text
    build = real.TrussConfig.from_dict(copy.deepcopy(mended)).trt_llm.build
    assert build.quantization_type.value == rows["quantization_type"]["value"]
    mended["trt_llm"]["build"]["quantization_type"] = "fp8"
    assert rows["accelerator"]["says"] in said(real, mended)


def test_the_talks_lengths_change_nothing_today(real):
    mended = copy.deepcopy(truss.talk_config().config)
    mended["trt_llm"]["build"]["base_model"] = "decoder"
    bare = without(without(mended, "trt_llm.build.max_input_len"), "trt_llm.build.max_output_len")
    fields = type(real.TrussConfig.from_dict(copy.deepcopy(bare)).trt_llm.build).model_fields
    assert not {"max_input_len", "max_output_len"} & set(fields)
    assert real.TrussConfig.from_dict(copy.deepcopy(mended)).trt_llm.build.max_seq_len is None


def test_the_talks_config_shows_itself_with_source_and_verdicts():
    talk = truss.talk_config()
    assert yaml.safe_load(talk.text) == talk.config
    for shown in (str(talk), talk._repr_html_()):
        assert "github.com/basetenlabs/Workshop-TRT-LLM" in shown
        assert "it does not deploy today" in shown
        assert "refused as it is read" in shown
        assert "the other 10 work as they did" in shown


def test_the_changes_since_the_talk_are_named():
    shown = str(truss.differences())
    assert "base_model: llama" in shown
    assert "base_model: decoder" in shown
    assert "max_seq_len: 2000" in shown


# --- What is shown and written -------------------------------------------------------


def test_the_nearest_gpu_is_of_the_same_generation():
    reason = str(truss.export(made(gpu="rtx-4090")).refusals[0])
    assert "Take L4 (24 GB) or L40S (48 GB), of compute capability 8.9 like it." in reason
    assert "Take A10G (24 GB)" in str(truss.export(made(gpu="rtx-3090", precision="fp16")).refusals[0])


def test_a_way_out_of_int8_is_named_for_the_gpu_at_hand():
    assert "fp16 on the A10G, or fp8 on a GPU that has it, such as L4." in str(
        truss.export(made(gpu="a10g", precision="int8")).refusals[0]
    )
    assert str(truss.export(made(gpu="l4", precision="int8")).refusals[0]).endswith("Take precision fp8.")


def test_every_way_out_of_a_refusal_is_one(real):
    """Whoever follows the advice is not refused for the same setting again."""
    for gpu, precision in itertools.product(("l4", "h100", "b200"), ("int8", "int8_wo", "int4_awq")):
        export = truss.export(made(gpu=gpu, precision=precision))
        advice = re.search(r"precision (\w+)", export.refusals[0].instead)
        assert not truss.export(made(gpu=gpu, precision=advice[1])).refusals


def test_nothing_is_written_of_a_recipe_that_is_refused(tmp_path):
    export = truss.export(made(gpu="cpu", model="bundled", max_num_tokens=64))
    with pytest.raises(WorkshopError) as refused:
        export.write(tmp_path / "truss")
    assert not (tmp_path / "truss").exists()
    assert str(refused.value).count("\n  - ") == len(export.refusals) == 3
    for shown in (str(export), export._repr_html_()):
        assert "No config.yaml: " in shown and "cannot be deployed with Truss (3 reasons)" in shown
        assert "base_model" not in shown


@pytest.mark.parametrize(
    "change, field, words",
    [
        ({"tensor_parallel_size": 3}, "tensor_parallel_size", "32 heads and 4 key-value heads"),
        ({"max_num_tokens": 999}, "max_num_tokens", "a prompt has to fit into one step"),
        ({"model": "Llama-3.1-70B-Instruct", "precision": "fp16"}, "gpu", "does not fit on one H100 SXM"),
        ({"model": "Llama-3.1-8B-Instruct", "gpu": "l4", "max_input_len": 90_000, "max_num_tokens": 90_000}, "", "fit"),
    ],
)
def test_what_no_machine_can_run_is_refused_although_truss_would_take_it(real, change, field, words, tmp_path):
    recipe_ = made(**change)
    export = truss.export(recipe_)
    held(real, export)
    [reason] = [reason for reason in export.refusals if reason.by == "rules"]
    assert words in str(reason) and (reason.setting == field or not field)
    for shown in (str(export), export._repr_html_()):
        assert "not deployable" in shown
    with pytest.raises(WorkshopError, match="cannot be deployed"):
        export.write(tmp_path)


def test_what_only_another_machine_minds_is_no_reason_for_truss():
    assert not [reason for reason in truss.export(made(gpu="a10g", precision="fp8")).refusals if reason.by == "rules"]


def test_a_refused_file_says_in_its_headline_that_it_is_not_deployable():
    export = truss.export(made(gpu="a10g", precision="int8"))
    assert str(export).startswith("config.yaml, not deployable: ")
    assert "base_model: decoder" in str(export) and "Next:" not in str(export)


def test_the_next_step_is_shown_for_a_file_by_its_name():
    command = "`python -m helpers truss llama-3-8b-fp8-h100 --output FOLDER`"
    assert command in str(truss.export("llama-3-8b-fp8-h100"))
    other = truss.export(recipe.load("llama-3-8b-fp8-h100").changed(max_batch_size=8))
    assert command not in str(other) and "truss push" in other._repr_html_()


def test_where_nothing_is_calibrated_no_calibration_is_told():
    for precision in ("fp16", "int8_wo"):
        assert "calib" not in str(truss.export(made(precision=precision)))
    assert "calib_size: 128" in str(truss.export(made()))


def test_the_file_is_written_whole_and_again(tmp_path):
    export = truss.export(made())
    for _ in range(2):
        file = export.write(tmp_path)
        assert file.name == "config.yaml"
        assert yaml.safe_load(file.read_text()) == export.config
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
    assert export.text in str(export)


def test_a_folder_that_takes_no_file_is_told_in_a_sentence(tmp_path):
    (tmp_path / "truss").write_text("a file is in the way")
    with pytest.raises(WorkshopError, match=r"cannot be written: .*\. Choose another folder"):
        truss.export(made()).write(tmp_path / "truss")


def test_the_model_is_pinned_as_the_workshop_pins_it():
    source = truss.export(made()).config["trt_llm"]["build"]["checkpoint_repository"]
    row = models.known()["TinyLlama"]
    assert (source["repo"], source["revision"]) == (row["repository"], row["revision"])
    assert truss.export(made(revision="0123abc")).config["trt_llm"]["build"]["checkpoint_repository"]["revision"] == (
        "0123abc"
    )
    export = truss.export(made(model="some-one/a-model"))
    assert "revision" not in export.config["trt_llm"]["build"]["checkpoint_repository"]
    assert "the newest at each build" in str(export)


def test_a_gated_model_asks_for_a_secret_by_name_and_holds_no_value(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_thisisnotarealtoken")
    export = truss.export(made(model="Llama-3.1-8B-Instruct"))
    assert export.config["secrets"] == {"hf_access_token": None}
    assert "secrets" not in truss.export(made()).config
    assert "hf_thisisnotarealtoken" not in str(export) + export._repr_html_()


def test_texts_are_rounded_up_to_whole_steps_and_that_is_told():
    export = truss.export(made(calibration={"texts": 65}))
    assert export.config["trt_llm"]["build"]["quantization_config"]["calib_size"] == 128
    assert "65 is no multiple of 64 and became 128" in str(export)
    assert "no multiple" not in str(truss.export(made()))
    assert "quantization_config" not in truss.export(made(precision="fp16")).config["trt_llm"]["build"]


def test_where_the_page_is_narrower_than_the_schema_it_is_said():
    assert truss.export(made(precision="fp16")).notes == ()
    assert "256 to 131,072 in steps of 64; Truss itself accepts 100." in truss.export(made(max_num_tokens=100)).notes[0]
    assert not any("max_num_tokens" in note for note in truss.export(made(max_num_tokens=64)).notes)
    assert "truss push warns" in truss.export(made()).notes[0]


# --- The call ------------------------------------------------------------------------


class Endpoint(http.server.BaseHTTPRequestHandler):
    """Notes what it is asked, and streams one word."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        chunk = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": body["model"]}
        chunk["choices"] = [{"index": 0, "delta": {"content": "A chef."}, "finish_reason": None}]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        self.wfile.write(f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def endpoint():
    server = http.server.HTTPServer(("127.0.0.1", 0), Endpoint)
    server.asked = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_both_calls_ask_as_they_say_and_the_key_comes_from_the_environment(endpoint):
    call = truss.predict_call(made(max_output_len=16))
    here = f"http://127.0.0.1:{endpoint.server_port}"
    environment = {**os.environ, "BASETEN_API_KEY": "not-a-real-key", "BASETEN_MODEL_ID": "abcd1234"}
    python = call.python.replace("https://model-{os.environ['BASETEN_MODEL_ID']}.api.baseten.co", here)
    curl = call.curl.replace("https://model-${BASETEN_MODEL_ID}.api.baseten.co", here).replace("curl ", "curl -s ")
    for command in ([sys.executable, "-c", python], ["bash", "-c", curl]):
        answer = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
        assert "A chef." in answer.stdout, answer.stderr
    (path, key, body), (path2, key2, body2) = endpoint.asked
    assert path == path2 == "/environments/production/sync/v1/chat/completions"
    assert (key, key2) == ("Bearer not-a-real-key", "Api-Key not-a-real-key")
    assert body.pop("stream") is True
    assert body == body2
    assert (body["model"], body["max_tokens"]) == ("trial", 16)


def test_the_key_is_never_shown(monkeypatch):
    monkeypatch.delenv("BASETEN_MODEL_ID", raising=False)
    monkeypatch.setenv("BASETEN_API_KEY", "not-a-real-key")
    call = truss.predict_call(made())
    assert "not-a-real-key" not in str(call) + call._repr_html_() + repr(call)
    assert "Set here: BASETEN_API_KEY." in call.note
    monkeypatch.delenv("BASETEN_API_KEY")
    assert "Neither is set here." in truss.predict_call(made()).note
    assert "Nothing was called" in str(call)
