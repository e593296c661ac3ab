"""The exported files: every target's own models or schemas read what every recipe becomes, and refuse what is wrong.

The validators run in an environment of their own (tests/validators); Ray's schema is in this one.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from helpers import hardware, recipe, releases
from helpers.deploy.export import TARGETS, Exported, command, export, facts, subject, triton
from helpers.deploy.export.exported import NOTE
from helpers.deploy.scaling import Scaling
from helpers.errors import WorkshopError
from helpers.recipe import truss
from helpers.releases.contract import contract
from tests.conftest import ROOT
from tests.validators import environment

GPU = [name for name in recipe.names() if not recipe.load(name).on_cpu]
CPU = [name for name in recipe.names() if recipe.load(name).on_cpu]
VERSION = facts.facts()["kubernetes"]["version"]
KEDA = {
    "InterceptorRoute": facts.facts()["keda"]["route_fields"],
    "ScaledObject": facts.facts()["keda"]["object_fields"],
}
MANIFESTS = ("kubernetes/volume", "kubernetes/deployment", "kubernetes/service", "kubernetes/autoscaler")
SERVICE, PBTXT = "kserve/inference_service.yaml", "triton/model_repository/tensorrt_llm/config.pbtxt"
FIELDS = {
    "model": "TinyLlama",
    "gpu": "h100",
    "max_input_len": 1000,
    "max_output_len": 1000,
    "max_batch_size": 64,
    "max_num_tokens": 8192,
    "precision": "fp8",
}


def made(**changes):
    """A recipe that is in no file."""
    return recipe.parse({**FIELDS, **changes}, "trial")


VARIANTS = {
    "baked": lambda: export("tinyllama-fp8-2x-rtx-4090", image="registry.example.com/team/engine:7", baked=True),
    "kept-warm": lambda: export("llama-3-8b-fp8-h100", Scaling(min_replicas=2, max_replicas=8, target_ongoing=12.6)),
    "older": lambda: export("tinyllama-int8-a10g", release="1.0.0"),
    "settings": lambda: export(made(kv_cache="fp8", precision="fp16")),
    "chunks": lambda: export(made(serving={"chunked_prefill": True})),
    "slice": lambda: export(made(gpu="h100-mig-3g.40gb")),
    "gated-cpu": lambda: export(
        made(model="Llama-3.1-8B-Instruct", gpu="cpu", max_batch_size=1, precision="fp16", max_num_tokens=2048)
    ),
}
"""What no recipe of the workshop is."""

NAMES = [*recipe.names(), *VARIANTS]


class Exports(dict):
    """Name to export, made when it is first asked for."""

    def __missing__(self, name: str) -> Exported:
        self[name] = VARIANTS[name]() if name in VARIANTS else export(name)
        return self[name]


EXPORTS = Exports()


@pytest.fixture(scope="session")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    for name, one in ((name, EXPORTS[name]) for name in NAMES):
        one.write(folder / name)
    return folder


@pytest.fixture(scope="session")
def said(written):
    """What each validator says of every file, by export and path; each runs once for all of them."""

    def of(script, pattern, *arguments):
        files = sorted(written.glob(pattern))
        told = environment.run(script, *arguments, *files)
        return {str(Path(file).relative_to(written)): one for file, one in told.items()}

    found = of("kubernetes_manifests", "*/kubernetes/*.yaml", VERSION, json.dumps(KEDA))
    found |= of("kubernetes_manifests", "*/kserve/[sv]*.yaml", VERSION, json.dumps(KEDA))
    found |= of("inference_service", "*/kserve/inference_service.yaml", VERSION)
    found |= of("triton_config", f"*/{PBTXT}")
    return found | of("container_file", "*/container/Containerfile")


def documents(name, path):
    return [one for one in yaml.safe_load_all(EXPORTS[name].files[path]) if one]


def pods(name):
    """The pods of an export: Deployment, InferenceService and what fills the volume."""
    (deployment,) = (one for one in documents(name, "kubernetes/deployment.yaml") if one["kind"] == "Deployment")
    (service,) = documents(name, SERVICE)
    found = {"kubernetes": deployment["spec"]["template"]["spec"], "kserve": service["spec"]["predictor"]}
    if "kubernetes/volume.yaml" in EXPORTS[name].files:
        found["loader"] = documents(name, "kubernetes/volume.yaml")[1]["spec"]
    return found


def servers(name):
    return {where: pod for where, pod in pods(name).items() if where != "loader"}


# --- Every recipe, every target: the real tools read it ------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_read_by_its_platforms_own_tools(said, written, name):
    validated = {path: told["problems"] for path, told in said.items() if path.startswith(f"{name}/")}
    assert not any(validated.values()), validated
    everything = {
        f"{name}/{path}"
        for path in EXPORTS[name].files
        if path.startswith(("kubernetes/", "kserve/")) or path.endswith(("Containerfile", ".pbtxt"))
    }
    assert set(validated) == everything


@pytest.mark.parametrize("name", NAMES)
def test_ray_reads_its_config_with_its_own_schema(name):
    from ray.serve.schema import ServeDeploySchema

    config = yaml.safe_load(EXPORTS[name].files["ray/serve_config.yaml"])
    read = ServeDeploySchema.model_validate(config)
    assert read.applications[0].import_path == "helpers.deploy.ray_app:build"


@pytest.mark.parametrize("name", recipe.names())
def test_what_truss_gets_is_what_its_own_export_makes(name):
    own, here = truss.export(name), EXPORTS[name]
    assert ("truss" in here.refusals) == bool(own.refusals)
    assert here.files.get("truss/config.yaml") == (None if own.refusals else own.text)


def test_every_target_has_files_or_a_reason():
    for name, one in ((name, EXPORTS[name]) for name in NAMES):
        folders = {path.partition("/")[0] for path in one.files if "/" in path}
        assert folders | set(one.refusals) == set(TARGETS), name
        assert not folders & set(one.refusals)
        for why in one.refusals.values():
            assert why.endswith(".") and "\n" not in why


@pytest.mark.parametrize("name", CPU)
def test_the_engine_of_a_cpu_goes_into_no_triton(name):
    assert "CPU" in EXPORTS[name].refusals["triton"]
    assert {"container", "kubernetes", "kserve", "ray"} & set(EXPORTS[name].refusals) == set()


# --- The same tools refuse what is wrong ---------------------------------------------

SLIPS = {
    "kubernetes/deployment.yaml": [
        ("  strategy:", "  strategi:"),
        ("containerPort: 8000", "containerPort: eight"),
        ("runAsNonRoot: true", "runAsNonRoot: 'yes'"),
        ("readinessProbe:", "readynessProbe:"),
        ("kind: Deployment", "kind: Deploiment"),
    ],
    "kubernetes/service.yaml": [("targetPort:", "targetport:"), ("port: 80\n", "port: '80'\n")],
    "kubernetes/volume.yaml": [("accessModes:", "accessMode:"), ("readOnlyRootFilesystem: true", "readOnly: true")],
    "kubernetes/autoscaler.yaml": [
        ("maxReplicaCount:", "maxReplicas:"),
        ("stabilizationWindowSeconds: 300", "stabilizationWindowSeconds: '300'"),
        ("  scalingMetric:", "  scalingMetrics:"),
    ],
    SERVICE: [
        ("scaleTarget:", "scaleTargets:"),
        ("minReplicas: 0", "minReplicas: '0'"),
        ("    containers:", "    container:"),
        ("      image:", "      imag:"),
        ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: 'no'"),
        ("    nodeSelector:", "    nodeSelectors:"),
    ],
    PBTXT: [
        ("max_batch_size: 64", "max_batch_sizes: 64"),
        ("max_batch_size: 64", 'max_batch_size: "64"'),
        ("TYPE_INT32", "TYPE_INT33"),
        ("parameters {", "parameters ("),
    ],
    "container/Containerfile": [("FROM ", "FORM "), ("ENV HOME=/home/engine ", "ENV HOME\nENV "), ("USER ", "USAR ")],
}
SCRIPTS = {SERVICE: "inference_service", PBTXT: "triton_config", "container/Containerfile": "container_file"}


@pytest.mark.parametrize("path", SLIPS)
def test_a_wrong_key_or_type_is_refused(path, tmp_path):
    right = EXPORTS["tinyllama-fp8-rtx-4090"].files[path]
    files = []
    for number, (old, new) in enumerate(SLIPS[path]):
        assert old in right, old
        files.append(tmp_path / str(number))
        files[-1].write_text(right.replace(old, new))
    script = SCRIPTS.get(path, "kubernetes_manifests")
    arguments = {"kubernetes_manifests": [VERSION, json.dumps(KEDA)], "inference_service": [VERSION]}
    told = environment.run(script, *arguments.get(script, []), *files)
    accepted = [SLIPS[path][int(Path(file).name)] for file, one in told.items() if not one["problems"]]
    assert not accepted and len(told) == len(SLIPS[path])


@pytest.mark.parametrize(("old", "new"), [("import_path:", "import:"), ("port: 8000", "port: eight")])
def test_a_slip_in_rays_config_is_refused(old, new):
    from ray.serve.schema import ServeDeploySchema

    text = EXPORTS["bundled-cpu"].files["ray/serve_config.yaml"]
    assert old in text
    with pytest.raises(ValueError):
        ServeDeploySchema.model_validate(yaml.safe_load(text.replace(old, new)))


# --- What a pod may do, and when it is ready -----------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_nothing_runs_as_root_or_may_become_it(name):
    for pod in pods(name).values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        for container in pod["containers"]:
            may = container["securityContext"]
            assert may["runAsNonRoot"] and may["runAsUser"] > 0 and may["readOnlyRootFilesystem"]
            assert may["allowPrivilegeEscalation"] is False and may["capabilities"] == {"drop": ["ALL"]}
            assert may["seccompProfile"] == {"type": "RuntimeDefault"}


@pytest.mark.parametrize("name", NAMES)
def test_whatever_is_written_to_is_a_volume(name):
    for pod in servers(name).values():
        (container,) = pod["containers"]
        volumes = {one["name"]: one for one in pod["volumes"]}
        places = {one["mountPath"]: one for one in container["volumeMounts"]}
        home = next(one["value"] for one in container["env"] if one["name"] == "HOME")
        for place in (home, "/tmp", "/dev/shm"):
            assert "emptyDir" in volumes[places[place]["name"]] and not places[place].get("readOnly")
        assert set(volumes) == {one["name"] for one in places.values()}
        assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
        if "models" in volumes:
            assert places["/models"]["readOnly"] and volumes["models"]["persistentVolumeClaim"]["readOnly"]


@pytest.mark.parametrize("name", NAMES)
def test_a_start_is_waited_for_and_only_then_are_the_other_probes_asked(name):
    one, scaled = EXPORTS[name], subject.Subject
    asked = recipe.from_text(one.files["recipe.yaml"], name)
    limit = scaled(asked, release=subject.release_of(asked, None)).start_seconds
    for pod in servers(name).values():
        (container,) = pod["containers"]
        start, ready, alive = (container[f"{which}Probe"] for which in ("startup", "readiness", "liveness"))
        assert all(probe["httpGet"] == {"path": "/health", "port": 8000} for probe in (start, ready, alive))
        assert limit <= start["failureThreshold"] * start["periodSeconds"] < limit + 10
        assert alive["failureThreshold"] * alive["periodSeconds"] >= 60


def test_a_larger_engine_gets_longer_to_start():
    small, large = (
        subject.Subject(recipe.load(name), release=releases.release("1.2.1"))
        for name in ("tinyllama-fp8-rtx-4090", "llama-3-8b-fp16-2x-rtx-4090")
    )
    assert large.engine_bytes > 5 * small.engine_bytes
    assert large.start_seconds > small.start_seconds + 100


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_lives_until_its_longest_answer_is_whole(name):
    asked = recipe.from_text(EXPORTS[name].files["recipe.yaml"], name)
    pod = pods(name)["kubernetes"]
    wait = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > wait + asked.max_output_len / 20
    assert pods(name)["kserve"]["timeout"] > asked.max_output_len / 20


@pytest.mark.parametrize("name", [*GPU, "slice"])
def test_an_engine_runs_on_the_gpu_that_it_was_tuned_for(name):
    asked = recipe.from_text(EXPORTS[name].files["recipe.yaml"], name)
    for pod in servers(name).values():
        assert pod["nodeSelector"] == {"nvidia.com/gpu.product": facts.gpu_product(asked.gpu)}
        (container,) = pod["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == asked.tensor_parallel_size


@pytest.mark.parametrize("name", CPU)
def test_a_pod_without_a_gpu_asks_for_none(name):
    for pod in servers(name).values():
        assert "nodeSelector" not in pod and "nvidia.com" not in json.dumps(pod)


def test_the_label_of_a_gpu_is_the_drivers_name_with_dashes():
    brands = ("NVIDIA", "GeForce", "Tesla")
    for sheet in hardware.datasheets():
        label = facts.gpu_product(sheet.key)
        whole = hardware.by_key(sheet.slice_of or sheet.key)
        words = label.removesuffix(f"-MIG-{sheet.key.partition('-mig-')[2]}").split("-")
        while words and words[0] in brands:
            words.pop(0)
        assert "-".join(words) == whole.match.replace(" ", "-")
        assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,61}[A-Za-z0-9]", label)


@pytest.mark.parametrize("name", GPU)
def test_the_server_is_started_by_the_command_that_its_release_takes(name):
    release = subject.release_of(recipe.load(name), None)
    for pod in servers(name).values():
        words = pod["containers"][0]["args"]
        program = contract(release.version).programs["trtllm-serve"]
        assert program.problems(words) == []
        told = program.parse(words)
        assert told["host"] == "0.0.0.0" and told["port"] == 8000
        assert told["max_batch_size"] == recipe.load(name).max_batch_size
        assert pod["containers"][0]["image"] == release.container


def test_the_image_is_the_release_that_was_asked_for():
    one = EXPORTS["older"]
    assert "FROM nvcr.io/nvidia/tensorrt-llm/release:1.0.0\n" in one.files["container/Containerfile"]
    assert "release:1.2.1" not in str(one)
    assert "--backend\n        - trt\n" in one.files["kubernetes/deployment.yaml"]
    assert "--branch v1.0.0" in one.files["triton/fill.sh"] and "25.10-trtllm" in one.files["README.md"]
    with pytest.raises(WorkshopError, match=r"does not offer TensorRT-LLM 1\.3"):
        export("tinyllama-int8-a10g", release="1.3.0rc22")


def test_what_no_option_says_comes_as_a_file():
    for pod in servers("settings").values():
        (container,) = pod["containers"]
        place = container["args"][container["args"].index("--extra_llm_api_options") + 1]
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        assert place.rpartition("/")[0] in mounted
    content = documents("settings", "kubernetes/deployment.yaml")[0]["data"]["llm_options.yaml"]
    assert yaml.safe_load(content)["kv_cache_config"]["enable_block_reuse"] is False
    assert EXPORTS["settings"].files["container/llm_options.yaml"] == content
    assert 'key: "enable_kv_cache_reuse" value { string_value: "false" }' in EXPORTS["settings"].files[PBTXT]
    assert 'key: "enable_chunked_context" value { string_value: "true" }' in EXPORTS["chunks"].files[PBTXT]


# --- Scaling -------------------------------------------------------------------------


def test_what_was_tried_here_is_asked_for_there():
    scaling = Scaling(min_replicas=2, max_replicas=8, target_ongoing=12.6)
    (service,) = documents("kept-warm", SERVICE)
    predictor = service["spec"]["predictor"]
    assert (predictor["minReplicas"], predictor["maxReplicas"], predictor["scaleTarget"]) == (2, 8, 13)
    assert predictor["scaleMetric"] == "concurrency" and predictor["containerConcurrency"] == 128
    route, scaled = documents("kept-warm", "kubernetes/autoscaler.yaml")
    assert route["spec"]["scalingMetric"]["concurrency"]["targetValue"] == 13
    assert (scaled["spec"]["minReplicaCount"], scaled["spec"]["maxReplicaCount"]) == (2, 8)
    told = yaml.safe_load(EXPORTS["kept-warm"].files["ray/serve_config.yaml"])["applications"][0]["args"]
    assert Scaling(**{name: value for name, value in told.items() if name != "recipe"}) == scaling
    assert any("12.6" in note and "13" in note for note in EXPORTS["kept-warm"].notes)


def test_knative_is_told_nothing_that_it_refuses():
    known = facts.facts()["kserve"]
    slow = export(
        "bundled-cpu", Scaling(downscale_delay=5000, to_zero_delay=9000.5, look_back=4000), targets=["kserve"]
    )
    (document,) = yaml.safe_load_all(slow.files[SERVICE])
    told = {key.rpartition("/")[2]: value for key, value in document["metadata"]["annotations"].items()}
    assert told["window"] == told["scale-down-delay"] == told["scale-to-zero-pod-retention-period"] == "3600s"
    for name in NAMES:
        kserve = pods(name)["kserve"]
        assert set(kserve["securityContext"]) <= set(known["security_fields"])
        assert not {"terminationGracePeriodSeconds", "lifecycle"} & (set(kserve) | set(kserve["containers"][0]))


def test_the_application_takes_the_arguments_that_the_config_names():
    ray_app = pytest.importorskip("helpers.deploy.ray_app")
    for one in map(EXPORTS.__getitem__, NAMES):
        told = yaml.safe_load(one.files["ray/serve_config.yaml"])["applications"][0]["args"]
        assert ray_app.parsed(told)


def test_down_to_zero_only_where_it_was_asked_for():
    assert documents("bundled-cpu", SERVICE)[0]["spec"]["predictor"]["minReplicas"] == 0
    assert documents("bundled-cpu", "kubernetes/autoscaler.yaml")[1]["spec"]["minReplicaCount"] == 0
    assert "pays a cold start" in EXPORTS["bundled-cpu"].files["kubernetes/autoscaler.yaml"]
    assert "pays a cold start" not in EXPORTS["kept-warm"].files["kubernetes/autoscaler.yaml"]


def test_an_update_needs_a_spare_gpu_only_where_nobody_else_would_answer():
    def update(name):
        deployment = documents(name, "kubernetes/deployment.yaml")[-1]
        return deployment["spec"]["strategy"]["rollingUpdate"]

    assert update("kept-warm") == {"maxSurge": 0, "maxUnavailable": 1}
    assert update("tinyllama-fp8-rtx-4090") == {"maxSurge": 1, "maxUnavailable": 0}
    assert "spare GPU" in EXPORTS["tinyllama-fp8-rtx-4090"].files["kubernetes/deployment.yaml"]


def test_a_request_that_finds_no_replica_waits_as_long_as_a_start_may_take():
    route = documents("llama-3-8b-fp8-h100", "kubernetes/autoscaler.yaml")[0]
    start = pods("llama-3-8b-fp8-h100")["kubernetes"]["containers"][0]["startupProbe"]
    seconds = int(route["spec"]["timeouts"]["readiness"].removesuffix("s"))
    assert start["failureThreshold"] * start["periodSeconds"] >= seconds > 200
    assert route["spec"]["timeouts"]["request"] == "0s"  # a stream may last


# --- Triton --------------------------------------------------------------------------

FITS = {
    "choice": lambda value, row: value in row["choices"],
    "whole": lambda value, row: value.isdigit(),
    "share": lambda value, row: 0 < float(value) <= 1,
    "truth": lambda value, row: value in ("true", "false"),
    "folder": lambda value, row: value.startswith("/"),
    "text": lambda value, row: True,
}


@pytest.mark.parametrize("name", [*GPU, "settings", "chunks"])
def test_every_key_that_triton_is_told_is_in_the_table(said, name):
    told, known = said[f"{name}/{PBTXT}"]["read"], triton.facts()
    assert set(told) <= set(known["fields"]["names"])
    rows = {row["name"]: row for row in known["parameter"]}
    values = {key: value.get("string_value", "") for key, value in told["parameters"].items()}
    assert set(values) <= set(rows)
    assert {row["name"] for row in rows.values() if row.get("required")} <= set(values)
    for key, value in values.items():
        assert FITS[rows[key]["type"]](value, rows[key]), (key, value)
    tensors = {one["name"]: one["data_type"] for one in told["input"] + told["output"]}
    assert tensors == {row[0]: row[1] for row in known["tensors"]["inputs"] + known["tensors"]["outputs"]}


@pytest.mark.parametrize("name", GPU)
def test_triton_is_told_what_the_recipe_says(said, name):
    told, asked = said[f"{name}/{PBTXT}"]["read"], recipe.load(name)
    values = {key: value.get("string_value", "") for key, value in told["parameters"].items()}
    assert told["backend"] == "tensorrtllm" and told["model_transaction_policy"]["decoupled"] is True
    assert told["max_batch_size"] == asked.max_batch_size
    assert float(values["kv_cache_free_gpu_mem_fraction"]) == asked.serving.kv_cache_share
    assert values["gpt_model_path"] == f"/models/{facts.dns_name(name)}"
    assert f"--world_size={asked.tensor_parallel_size} " in EXPORTS[name].files["README.md"]


def test_every_row_of_the_table_says_where_it_was_read():
    known = triton.facts()
    for row in known["parameter"]:
        assert row["read_in"] and set(row["read_in"]) <= {"template", "page", "code"} and row["from"]
    assert all(known[source].startswith("https://github.com/NVIDIA/") for source in ("template", "code", "folder"))


def test_each_release_that_is_offered_has_an_image_and_a_page():
    for release in releases.offered():
        row = triton.facts()["release"][release.version]
        assert row["image"].startswith("nvcr.io/") and row["page"].startswith("https://") and row["image_source"]


def test_the_script_that_fetches_the_rest_is_a_shell_script():
    script = EXPORTS["tinyllama-fp8-rtx-4090"].files["triton/fill.sh"]
    done = subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert set(triton.facts()["beside"]) <= set(re.findall(r"model_repository/(\w+)/config", script))


# --- The container -------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_container_runs_as_a_numbered_user_and_says_whether_it_is_well(said, name):
    told = said[f"{name}/container/Containerfile"]["read"]
    does = [one["does"] for one in told]
    (user,) = (one for one in told if one["does"] == "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user["value"][0])
    assert does.index("USER") < does.index("CMD") and does[-1] == "CMD" and told[-1]["list"]
    (health,) = (one for one in told if one["does"] == "HEALTHCHECK")
    assert health["list"] and "/health" in health["value"][-1]
    assert compile(health["value"][-1], "health", "exec")
    (base,) = (one for one in told if one["does"] == "FROM")
    assert re.search(r":\d", base["value"][0]), "a base image without a version"


def test_an_engine_is_in_the_image_only_where_that_was_asked_for(said):
    def copied(name):
        told = said[f"{name}/container/Containerfile"]["read"]
        return [one["value"][0] for one in told if one["does"] == "COPY"]

    assert copied("tinyllama-fp8-rtx-4090") == []
    assert copied("baked") == ["engine", "tokenizer"]
    for where, pod in servers("baked").items():
        assert "models" not in {one["name"] for one in pod["volumes"]}, where
        assert pod["containers"][0]["image"] == "registry.example.com/team/engine:7"
    assert "kubernetes/volume.yaml" not in EXPORTS["baked"].files


@pytest.mark.parametrize("name", NAMES)
def test_a_build_may_read_what_it_copies_and_no_more(said, name):
    told, files = said[f"{name}/container/Containerfile"]["read"], EXPORTS[name].files
    copied = {one["value"][0] for one in told if one["does"] == "COPY"}
    ignored = files["container/.containerignore"].splitlines()
    assert ignored[0] == "*"
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert files["container/.dockerignore"] == files["container/.containerignore"]


@pytest.mark.parametrize("name", CPU)
def test_the_recipe_in_a_cpus_container_is_one_that_is_served_there(written, name):
    inside = recipe.load(written / name / "container" / "recipe.yaml")
    assert (inside.serving.host, inside.serving.port) == ("0.0.0.0", 8000)
    assert inside.changed(name, serving__host="127.0.0.1", serving__port=None) == recipe.load(name)
    assert not recipe.problems(inside)
    for folder in ("helpers", "data", "requirements.txt"):
        assert (ROOT / folder).exists()


# --- Secrets, places -----------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_no_file_holds_a_secret_or_a_place_on_this_machine(name):
    for path, text in EXPORTS[name].files.items():
        assert not re.search(r"hf_[A-Za-z0-9]{20}|BEGIN [A-Z ]*PRIVATE KEY", text), path
        assert f"{Path.home()}/" not in text and str(ROOT) not in text, path


def test_a_token_comes_from_the_clusters_secret_and_only_where_one_is_needed():
    for name in NAMES:
        for pod in servers(name).values():
            env = {one["name"]: one for one in pod["containers"][0]["env"]}
            assert ("HF_TOKEN" in env) == (name == "gated-cpu"), name
            if "HF_TOKEN" in env:
                assert set(env["HF_TOKEN"]) == {"name", "valueFrom"}
                assert set(env["HF_TOKEN"]["valueFrom"]) == {"secretKeyRef"}
    assert "kubectl create secret" in EXPORTS["gated-cpu"].files["README.md"]


# --- Names ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "told"),
    [("TinyLlama_FP8", "tinyllama-fp8"), ("3-of-them", "engine-3-of-them"), ("a" * 80, "a" * 50), ("x.-", "x")],
)
def test_a_recipes_name_becomes_one_that_a_service_may_have(name, told):
    assert facts.dns_name(name) == told
    assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", told) and len(told) <= 63


def test_a_name_without_a_letter_or_digit_is_refused():
    with pytest.raises(WorkshopError, match="Give the recipe one"):
        facts.dns_name("___")


# --- Writing -------------------------------------------------------------------------


def test_what_is_written_is_what_is_shown_and_a_second_time_replaces_it(tmp_path):
    one, other = EXPORTS["bundled-cpu"], EXPORTS["tinyllama-fp8-rtx-4090"]
    folder = one.write(tmp_path / "new" / "export")
    assert {path: (folder / path).read_text() for path in one.files} == one.files
    assert one.write(folder) == folder
    other.write(folder)
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert found == {*other.files, NOTE}
    assert [file.name for file in folder.parent.iterdir()] == ["export"], "something half-made is left"


def test_a_folder_of_somebody_elses_is_left_alone(tmp_path):
    one = EXPORTS["bundled-cpu"]
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(WorkshopError, match=r"holds thesis\.txt"):
        one.write(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.txt"]
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkshopError, match="no folder"):
        one.write(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert one.write(tmp_path / "empty")


def test_what_somebody_changed_or_added_is_not_overwritten(tmp_path):
    one = EXPORTS["bundled-cpu"]
    folder = one.write(tmp_path / "export")
    (folder / "README.md").write_text("mine now")
    with pytest.raises(WorkshopError, match=r"README\.md"):
        one.write(folder)
    assert (folder / "README.md").read_text() == "mine now"
    (folder / "README.md").write_text(one.files["README.md"])
    (folder / "container" / "engine").mkdir()
    (folder / "container" / "engine" / "rank0.engine").write_bytes(b"gigabytes")
    with pytest.raises(WorkshopError, match="rank0"):
        one.write(folder)
    assert (folder / "container" / "engine" / "rank0.engine").exists()


def test_a_folder_that_cannot_be_written_is_told_in_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkshopError, match="cannot be written"):
        EXPORTS["bundled-cpu"].write(tmp_path / "file" / "export")


# --- What is asked for ---------------------------------------------------------------


def test_only_the_targets_that_were_asked_for():
    one = export("tinyllama-fp8-rtx-4090", targets=["ray", "container"])
    assert {path.partition("/")[0] for path in one.files} == {"README.md", "recipe.yaml", "container", "ray"}
    assert "kubectl" not in one.files["README.md"] and not one.refusals
    with pytest.raises(WorkshopError, match=r"no target 'helm'.*kserve"):
        export("bundled-cpu", targets=["helm"])
    only = export("bundled-cpu", targets=["triton"])
    assert not only.made and "Take a recipe for a GPU" in str(only)
    with pytest.raises(WorkshopError, match="Nothing was written"):
        only.write("anywhere")


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("bundled-cpu", {"baked": True}, "Leave baked out"),
        ("bundled-cpu", {"release": "1.2.1"}, "Leave the release out"),
        ("tinyllama-fp8-rtx-4090", {"image": "two words"}, "no name of an image"),
        ("tinyllama-fp8-rtx-4090", {"image": "--privileged"}, "no name of an image"),
        ("tinyllama-fp8-rtx-4090", {"image": "a;reboot"}, "no name of an image"),
        ("no-such-recipe", {}, "There is no recipe"),
    ],
)
def test_what_makes_no_sense_is_refused_in_a_sentence(name, options, told):
    with pytest.raises(WorkshopError, match=told) as refused:
        export(name, **options)
    assert str(refused.value).endswith(".")


def test_a_recipe_with_a_problem_is_not_exported():
    with pytest.raises(WorkshopError, match=r"(?i)fp8"):
        export(made(gpu="a10g"))


def test_an_export_is_the_same_every_time_and_shows_every_file_both_ways():
    one = export("tinyllama-int8-a10g")
    assert one.files == EXPORTS["tinyllama-int8-a10g"].files
    page = one._repr_html_()
    for path, text in one.files.items():
        assert path in str(one) and text.rstrip() in str(one)
        assert f"<code>{path}</code>" in page
    assert page.count("<details") == len(one.files)
    for sentence in (*one.notes, *one.refusals.values()):
        assert sentence in str(one)


def test_one_file_can_be_looked_at():
    one = EXPORTS["bundled-cpu"]
    shown = one.file("ray/serve_config.yaml")
    assert one.files["ray/serve_config.yaml"].rstrip() in str(shown) and "import_path" in shown._repr_html_()
    with pytest.raises(WorkshopError, match=r"no file 'ray'.*ray/serve_config"):
        one.file("ray")


def test_a_model_that_only_the_hub_knows_is_exported_without_its_size():
    one = export(made(model="some/llama", revision="a" * 40))
    assert "its size is not known here" in one.files["README.md"]
    assert "whose size is not known here" in one.files["kubernetes/deployment.yaml"]


def test_the_model_is_called_what_its_server_calls_it():
    assert "calls it `tinyllama-fp8-rtx-4090`" in EXPORTS["tinyllama-fp8-rtx-4090"].files["README.md"]
    assert "calls it `openvino-fp16`" in EXPORTS["bundled-cpu"].files["README.md"]


def test_the_readme_names_every_file_and_what_nobody_tried():
    for name, one in ((name, EXPORTS[name]) for name in NAMES):
        text = one.files["README.md"]
        assert all(f"`{path}`" in text for path in one.files if path != "README.md"), name
        assert "What nobody has tried" in text and "assumed" in text


# --- The command ---------------------------------------------------------------------


def asked(*words):
    parser = argparse.ArgumentParser()
    command.add_to(parser.add_subparsers(dest="command"))
    return parser.parse_args(["export", *words])


def test_the_command_writes_what_the_function_makes(tmp_path, capsys):
    status = command.run(asked("bundled-cpu", "--output", str(tmp_path / "x"), "--min-replicas", "1"))
    shown = capsys.readouterr().out
    assert status == 0 and f"Written: {tmp_path / 'x'}" in shown and "=== README.md" not in shown
    config = yaml.safe_load((tmp_path / "x" / "ray" / "serve_config.yaml").read_text())
    assert config["applications"][0]["args"]["min_replicas"] == 1


def test_the_command_shows_the_files_and_fails_where_a_named_target_has_none(tmp_path, capsys):
    assert command.run(asked("bundled-cpu", "--target", "ray")) == 0
    assert "=== ray/serve_config.yaml" in capsys.readouterr().out
    assert command.run(asked("bundled-cpu", "--target", "triton, ray")) == 1
    assert command.run(asked("bundled-cpu", "--target", "triton", "--output", str(tmp_path / "x"))) == 1
    assert "Nothing was written" in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_importing_the_command_brings_nothing_heavy():
    code = (
        "import sys, helpers.deploy.export.command; print([n for n in ('torch', 'numpy', 'ray') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
