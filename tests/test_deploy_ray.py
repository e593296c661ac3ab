"""A real deployment of the bundled engine behind Ray Serve, and what is checked of it without Ray."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import ROOT, runs, until
from test_conformance import double  # noqa: F401  # a fixture: the address of the double of trtllm-serve

from helpers import deploy, models, serving
from helpers.deploy import Scaling, cluster, ray_app
from helpers.deploy.marks import Notes, Watched
from helpers.deploy.observed import ASKED, ENDED, FIRST_TOKEN, IMPORTED, LOADED, PROCESS, READY, STEPS, read
from helpers.deploy.passing import Child, PassThrough
from helpers.errors import WorkshopError
from helpers.toolchains import openvino
from helpers.toolchains.serving import ServeCommand, ServeOptions
from helpers.toolchains.sizes import Sizes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray's own

# --- Arguments and settings: pure -------------------------------------------------


def test_the_scaling_becomes_rays_own_settings_field_by_field():
    from ray.serve.config import AutoscalingConfig

    scaling = Scaling(1, 3, 5.0, None, 0.5, 7.0, 9.0, 3.0, 0.25)
    config = AutoscalingConfig(**ray_app.autoscaling(scaling, 32))
    # An initial number would be gone back to at each change of the settings, by ending replicas that run.
    assert (config.min_replicas, config.initial_replicas, config.max_replicas) == (1, None, 3)
    assert (config.target_ongoing_requests, config.upscale_delay_s, config.downscale_delay_s) == (5.0, 0.5, 7.0)
    assert (config.downscale_to_zero_delay_s, config.look_back_period_s, config.metrics_interval_s) == (9.0, 3.0, 0.25)


def test_a_target_that_a_replica_never_takes_is_refused_in_a_sentence():
    with pytest.raises(WorkshopError, match=r"target_ongoing is 40, and a replica takes 32 .*the engine's batch limit"):
        ray_app.autoscaling(Scaling(target_ongoing=40), 32)
    with pytest.raises(WorkshopError, match=r"takes 4 requests at once \(max_ongoing\)"):
        ray_app.autoscaling(Scaling(target_ongoing=8, max_ongoing=4), 32)


def test_arguments_of_a_command_line_are_text_and_become_values():
    asked = ray_app.parsed({"recipe": "bundled-cpu", "max_replicas": "3", "target_ongoing": "4.5", "blob": "false"})
    assert asked == {"recipe": "bundled-cpu", "max_replicas": 3, "target_ongoing": 4.5, "blob": False}
    assert ray_app.parsed({"recipe": "x", "max_ongoing": "none"}) == {"recipe": "x"}


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"recipe": "bundled-cpu", "replicas": "2"}, "There is no argument 'replicas'"),
        ({"recipe": "bundled-cpu", "max_replicas": "two"}, "max_replicas is 'two'. Give a whole number"),
        ({"max_replicas": 2}, "Say what to serve"),
        ({"engine": "/nowhere/at/all"}, "There is no engine in /nowhere/at/all"),
        ({"recipe": "bundled-cpu", "blob": "perhaps"}, "blob is 'perhaps'. Give true or false"),
        ({"recipe": "bundled-cpu", "options": "{half"}, "options are not what a server can be told"),
        ({"recipe": "bundled-cpu", "options": {"port": 8000}}, "options are not what a server can be told"),
    ],
)
def test_arguments_that_make_no_sense_are_refused_in_a_sentence(arguments, said):
    with pytest.raises(WorkshopError, match=said):
        ray_app.build(arguments)


def test_a_config_file_that_names_the_application_passes_rays_own_schema_and_builds():
    from ray.serve.schema import ServeDeploySchema

    arguments = {"recipe": "bundled-cpu", "min_replicas": 0, "max_replicas": 4, "target_ongoing": 6}
    application = {"name": "a", "route_prefix": "/", "import_path": "helpers.deploy.ray_app:build", "args": arguments}
    schema = ServeDeploySchema.model_validate({"applications": [application]})
    deployment = ray_app.build(schema.applications[0].args)._bound_deployment
    config = deployment._deployment_config
    assert (deployment.name, config.max_ongoing_requests) == (ray_app.NAME, 32)
    assert (config.autoscaling_config.max_replicas, config.autoscaling_config.target_ongoing_requests) == (4, 6)
    assert config.graceful_shutdown_timeout_s == ray_app.DRAIN
    assert deployment.ray_actor_options["num_cpus"] == 1


def test_a_replica_on_a_gpu_reserves_as_many_as_its_engine_is_split_over():
    assert ray_app.reserved({}, 2) == {"num_cpus": 1.0, "num_gpus": 2.0}
    assert ray_app.reserved({"cpus": 2.0, "gpus": 0.5}, 1) == {"num_cpus": 2.0, "num_gpus": 0.5}


def test_another_rays_variables_do_not_reach_ours_and_nobody_is_told_of_its_use(tmp_path):
    made = cluster.environment(tmp_path, {"RAY_ADDRESS": "ray://elsewhere:10001", "HOME": "/home/x"})
    assert "RAY_ADDRESS" not in made and made["HOME"] == "/home/x"
    assert (made["RAY_USAGE_STATS_ENABLED"], made["RAY_AUTH_MODE"]) == ("0", "token")
    assert made["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "token")


def test_a_replicas_own_words_are_taken_from_what_ray_says():
    said = (
        "The deployment failed\nray.exceptions.X: y\nhelpers.errors.WorkshopError: The engine did not load. No room.\n"
    )
    assert cluster.reason(said) == "The engine did not load. No room."
    assert cluster.reason("first\nlast words") == "last words"


def test_a_look_notes_when_a_replica_was_asked_for_and_that_a_killed_one_has_ended(tmp_path):
    look = cluster.Look(tmp_path)
    here = {"replica_id": "a", "state": "STARTING", "start_time_s": 90.0}
    moment = look.take({"replicas": [here], "target_num_replicas": 1}, 100.0)
    assert (moment.starting, moment.running, moment.target) == (1, 0, 1)
    look.take({"replicas": [], "target_num_replicas": 0}, 101.0)
    seen = read(tmp_path)
    assert seen.replicas() == {"a": {ASKED: 90.0, ENDED: 101.0}} and len(seen.moments) == 2


# --- Marks and the pass-through: without Ray ---------------------------------------


def test_the_first_token_of_a_chat_is_not_the_role_that_opens_its_stream(tmp_path):
    role = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
    pieces = [role, b'data: {"choices": [{"delta": {"content": "Hello"}}]}\n\n']
    notes, at = Notes(tmp_path, "one"), []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for piece in pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            at.append(notes.has(FIRST_TOKEN))

    async def nothing(*_):
        return {"type": "http.request"}

    asyncio.run(Watched(app, notes)({"type": "http", "method": "POST"}, nothing, nothing))
    assert at == [False, True]


SERVER = """
import asyncio, sys

async def answer(reader, writer):
    head = await reader.readuntil(b"\\r\\n\\r\\n")
    length = next((int(l.split(b":")[1]) for l in head.split(b"\\r\\n") if l.lower().startswith(b"content-length")), 0)
    body = await reader.readexactly(length)
    path = head.split()[1]
    if path == b"/health":
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
    elif path == b"/echo?a=1":
        of_the_client = [l for l in head.split(b"\\r\\n") if l.lower().startswith((b"x-", b"user-", b"accept"))]
        told = body + b"|" + b"\\n".join(of_the_client)
        begin = f"HTTP/1.1 418 Odd\\r\\nx-one: 1\\r\\nx-one: 2\\r\\ncontent-length: {len(told)}\\r\\n\\r\\n"
        writer.write(begin.encode() + told)
    else:
        writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-type: text/event-stream\\r\\n")
        writer.write(b"transfer-encoding: chunked\\r\\n\\r\\n")
        try:
            for n in range(600):
                data = b"data: %d\\n\\n" % n
                writer.write(b"%x\\r\\n%s\\r\\n" % (len(data), data))
                await writer.drain()
                await asyncio.sleep(0.05)
        except ConnectionError:
            pass
        open(sys.argv[2], "w").write("hung up")
    await writer.drain()
    writer.close()

async def main():
    async with await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1])) as server:
        await server.serve_forever()

asyncio.run(main())
"""


@pytest.fixture
def child(tmp_path):
    """A server as a replica on a GPU has one, with a stand-in for ``trtllm-serve`` that says little."""
    (tmp_path / "server.py").write_text(SERVER)

    def serve_command(engine, options):
        words = [sys.executable, str(tmp_path / "server.py"), str(options.port), str(tmp_path / "told")]
        return ServeCommand(words, "engine", {**os.environ, "RAY_AUTH_TOKEN_PATH": "secret"})

    return Child(None, ServeOptions(Sizes(4, 100, 50, 100)), SimpleNamespace(serve_command=serve_command), tmp_path)


def asked(through, path, body=b"", method="POST", query=b"", headers=(), stop_after=None):
    """Drive an ASGI application; gives its messages with the time of each."""

    async def drive():
        messages, gone = [], asyncio.Event()
        incoming = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive():
            if incoming:
                return incoming.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            messages.append((time.monotonic(), message))
            if stop_after and len(messages) > stop_after:
                gone.set()

        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": list(headers)}
        await asyncio.wait_for(through(scope, receive, send), 20)
        await through.close()
        return messages

    return drive()


def test_a_server_beside_a_replica_gets_and_gives_every_byte_unchanged_and_as_it_comes(child, tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")

    async def all_of_it():
        child.launch()
        await child.start(20)
        server = psutil.Process(child._process.pid).children(recursive=True)[0]
        variables = server.environ()
        headers = [(b"X-Two", b"b"), (b"Connection", b"keep-alive")]
        echoed = await asked(PassThrough(child.address), "/echo", b"\x00body\xff", query=b"a=1", headers=headers)
        streamed = await asked(PassThrough(child.address), "/stream", stop_after=10)
        until(lambda: (tmp_path / "told").exists(), 5, "the server's notice that its client hung up")
        await child.close()
        return server.pid, variables, [one for _, one in echoed], streamed

    pid, variables, echoed, streamed = asyncio.run(all_of_it())
    assert variables["CUDA_VISIBLE_DEVICES"] == "3" and not any(name.startswith("RAY_") for name in variables)
    assert echoed[0]["status"] == 418
    assert [one for one in echoed[0]["headers"] if one[0] == b"x-one"] == [(b"x-one", b"1"), (b"x-one", b"2")]
    assert b"".join(one.get("body", b"") for one in echoed) == b"\x00body\xff|x-two: b"
    bodies = [(when, one["body"]) for when, one in streamed if one["type"] == "http.response.body"]
    assert [body for _, body in bodies[:3]] == [b"data: 0\n\n", b"data: 1\n\n", b"data: 2\n\n"]
    assert bodies[8][0] - bodies[0][0] > 0.3, "the pieces came together"
    assert not runs(pid)


def test_a_server_beside_a_replica_that_ends_by_itself_is_noticed(child):
    async def all_of_it():
        child.launch()
        await child.start(20)
        assert child.failed is None
        psutil.Process(child._process.pid).children(recursive=True)[0].kill()
        await asyncio.wait_for(child.ended.wait(), 5)
        messages = await asked(PassThrough(child.address), "/health", method="GET")
        await child.close()
        return messages[0][1]

    assert asyncio.run(all_of_it())["status"] == 502 and child.failed


@pytest.mark.slow
def test_the_double_of_trtllm_serve_passes_the_same_checks_through_it(double):  # noqa: F811
    import uvicorn

    from helpers.serving import conformance

    port = serving.ports.free_port("127.0.0.1")
    through = PassThrough(double.removesuffix("/v1"))
    server = uvicorn.Server(uvicorn.Config(through, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started, 10, "the start of the application")
    try:
        report = conformance.run(f"http://127.0.0.1:{port}/v1", ours=False)
    finally:
        server.should_exit = True
        thread.join(10)
    assert report.ok, str(report)


# --- A real deployment ---------------------------------------------------------------

QUICK = Scaling(0, 2, 2.0, 4, upscale_delay=0.3, downscale_delay=2.0, look_back=1.0, interval=0.25)


@pytest.fixture(scope="module")
def engine(made_by_notebooks):
    return openvino.build(models.find(), "fp16")


@pytest.fixture(scope="module")
def deployment(engine):
    with deploy.start(engine, QUICK) as running:
        yield running


def family(deployment) -> list[psutil.Process]:
    return psutil.Process(deployment.pid).children(recursive=True)


def engines(deployment) -> list[psutil.Process]:
    return [one for one in family(deployment) if "openvino_serve.py" in " ".join(one.cmdline())]


def stream(deployment, tokens: int) -> int:
    """The number of tokens that a streamed request brings; fails if it is not whole."""
    client = deployment_client(deployment)
    answer = client.completions.create(
        model=deployment.model,
        prompt="The weather today",
        max_tokens=tokens,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"ignore_eos": True},
    )
    usage = [event.usage for event in answer if event.usage]
    return usage[-1].completion_tokens


def deployment_client(deployment):
    import openai

    direct = openai.DefaultHttpxClient(trust_env=False, timeout=60)
    return openai.OpenAI(base_url=deployment.url, api_key="none", max_retries=0, http_client=direct)


def test_the_first_request_starts_a_replica_whose_steps_are_noted_in_order(made_by_notebooks, deployment):
    assert not deployment.observed().marks and deployment.moment().running == 0
    answer = deployment.first_answer(max_tokens=8)
    assert answer.cold and answer.text and answer.sent < answer.first_token <= answer.ended
    (steps,) = deployment.observed().replicas().values()
    order = [ASKED, PROCESS, IMPORTED, LOADED, READY, FIRST_TOKEN]
    assert [step for step in STEPS if step in steps] == order
    times = [steps[step] for step in order]
    assert times == sorted(times), dict(zip(order, times, strict=True))
    assert answer.sent <= steps[ASKED] and steps[FIRST_TOKEN] <= answer.first_token + 0.05


def test_it_has_the_surface_of_the_single_server(made_by_notebooks, deployment):
    client = deployment_client(deployment)
    assert [one.id for one in client.models.list()] == [deployment.model]
    messages = [{"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(model=deployment.model, messages=messages, max_tokens=8, stream=True)
    assert "".join(event.choices[0].delta.content or "" for event in chat if event.choices)
    from helpers.serving import conformance

    report = conformance.run(deployment.url, ours=False)
    assert report.ok, str(report)


def test_only_this_machine_reaches_it_but_for_a_port_that_needs_the_runs_token(made_by_notebooks, deployment):
    open_to_all = {
        (one.name(), connection.laddr.port)
        for one in family(deployment)
        for connection in one.net_connections()
        if connection.status == psutil.CONN_LISTEN and connection.laddr.ip not in ("127.0.0.1", "::ffff:127.0.0.1")
    }
    assert all(name.startswith("ray::ServeRepli") for name, _ in open_to_all), open_to_all
    token = Path((deployment._told("began") or {})["began"]["temporary"]) / "token"
    assert token.stat().st_mode & 0o777 == 0o600 and token.parent.stat().st_mode & 0o077 == 0


def test_a_burst_brings_a_second_replica_then_none_and_every_answer_is_whole(made_by_notebooks, deployment):
    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(stream(deployment, 300))) for _ in range(12)]
    for thread in threads:
        thread.start()
    until(lambda: deployment.moment().running == 2, 40, "the second replica")
    more = stream(deployment, 200)
    for thread in threads:
        thread.join(60)
    assert counts == [300] * 12 and more == 200
    deployment.wait(0, 30)
    replicas = deployment.observed().replicas()
    assert all(ENDED in steps for steps in replicas.values()) and len(replicas) >= 2
    assert not engines(deployment)


def test_a_replica_whose_engine_was_killed_is_replaced(made_by_notebooks, deployment):
    deployment.first_answer(max_tokens=1)
    (killed,) = engines(deployment)
    (replica,) = [name for name, steps in deployment.observed().replicas().items() if ENDED not in steps]
    killed.kill()
    until(lambda: ENDED in deployment.observed().replicas()[replica], 5, "the end of the replica without an engine")
    answer = deployment.first_answer(max_tokens=4, time_limit=40)
    assert answer.text
    assert [one.pid for one in engines(deployment)] != [killed.pid]


def test_another_scaling_is_followed_at_once_and_leaves_the_replica_that_runs_alone(made_by_notebooks, deployment):
    deployment.first_answer(max_tokens=1)
    before = [one.pid for one in engines(deployment)]
    deployment.change(QUICK.with_(min_replicas=1))
    assert deployment.changed_seconds < 5 and deployment.moment().running == 1
    deployment.change(QUICK.with_(min_replicas=1, max_ongoing=3))
    assert deployment.scaling.max_ongoing == 3 and "changed, and followed after" in str(deployment)
    time.sleep(QUICK.last_delay + QUICK.look_back + 1)
    assert [one.pid for one in engines(deployment)] == before, "the replica was not kept"
    (warm,) = deploy.cold_starts(deployment, 1)
    assert warm.warm
    with pytest.raises(WorkshopError, match="target_ongoing is 40"):
        deployment.change(QUICK.with_(target_ongoing=40))
    assert deployment.scaling.max_ongoing == 3


def test_without_the_blob_replicas_are_replaced_and_cold_starts_are_measured(made_by_notebooks, deployment):
    before = {one.pid for one in engines(deployment)}
    deployment.change(blob=False)
    (compiling,) = engines(deployment)
    assert compiling.pid not in before and "--compile" in compiling.cmdline()
    deployment.change(QUICK)
    (cold,) = deploy.cold_starts(deployment, 1)
    assert not cold.warm and not cold.missing and cold.total > 0.5
    assert "--compile" in engines(deployment)[0].cmdline() and "without its blob" in deployment.title


def test_stopping_it_leaves_no_process_and_no_folder_of_rays(made_by_notebooks, deployment):
    everything = [psutil.Process(deployment.pid), *family(deployment)]
    temporary = Path(deployment._told("began")["began"]["temporary"])
    assert any("raylet" in one.name() for one in everything)
    deployment.stop()
    until(lambda: not any(runs(one.pid) for one in everything), 5, "the end of all of Ray")
    assert not temporary.exists() and (deployment.folder / cluster.LOGS / "raylet.out").is_file()
    with pytest.raises(WorkshopError, match="was stopped"):
        deployment.first_answer()


def test_a_replica_that_cannot_start_says_why_and_killing_rays_program_leaves_no_process(
    made_by_notebooks, engine, tmp_path
):
    import shutil

    from helpers import workspace
    from helpers.toolchains.base import Engine

    broken = Path(shutil.copytree(engine.path, tmp_path / "broken"))
    (broken / "graph" / "openvino_model.xml").write_text("<net>")
    shutil.rmtree(broken / "compiled")
    deployment = deploy.start(Engine(broken, workspace.read_manifest(broken)))
    try:
        with pytest.raises(WorkshopError, match=r"No replica of .* can start. The engine did not load"):
            deployment.first_answer(time_limit=60)
        everything = [psutil.Process(deployment.pid), *family(deployment)]
        os.kill(deployment._told("began")["began"]["pid"], signal.SIGKILL)
        until(lambda: not any(runs(one.pid) for one in everything), 10, "the end of all that it started")
        with pytest.raises(WorkshopError, match=r"ended\. Ray"):
            deployment.first_answer()
    finally:
        deployment.stop()


def test_killing_whoever_started_it_leaves_no_process_and_no_half_started_ray(made_by_notebooks, engine):
    code = "import sys\nfrom helpers import deploy, workspace\nfrom helpers.toolchains.base import Engine\n"
    code += "from pathlib import Path\nfound = workspace.find(Path(sys.argv[1]))\n"
    code += "deploy.start(Engine(found.path, found.manifest))\nprint('up', flush=True)\ninput()"
    words = [sys.executable, "-c", code, str(engine.path)]
    parent = subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        until(lambda: any("raylet" in one.name() for one in family(SimpleNamespace(pid=parent.pid))), 60, "a raylet")
        everything = family(SimpleNamespace(pid=parent.pid))
    finally:
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    until(lambda: not any(runs(one.pid) for one in everything), 10, "the end of all that it started")


def test_a_port_that_is_taken_is_refused_before_anything_starts(made_by_notebooks, engine):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(WorkshopError, match="taken"):
            deploy.start(engine, port=taken.getsockname()[1])
    with pytest.raises(WorkshopError, match="There is no port 70000"):
        deploy.start(engine, port=70_000)
    assert not deploy.deployment.deployments() and not serving.endpoints()
    assert json.loads(json.dumps(ray_app.arguments_of(engine, ServeOptions(Sizes(4, 100, 50, 100)), Scaling())))
