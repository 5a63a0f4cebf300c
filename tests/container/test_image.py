"""The image, run as in production: without rights, a writable root or a shell, and within limits."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator

import grpc
import numpy as np
import onnx
import pytest
from container.engine import (
    DIGITS,
    HARDENED,
    IMAGE,
    LIMIT_S,
    Container,
    becomes_true,
    docker,
    serving,
    started,
)
from foldserve_client import Client
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]

CALLERS = 8
NOT_READY_DELAY_S = 3
MEMORY = "450m"
WEIGHTS_BYTES = 600 * 1024**2
REQUEST_BYTES = 240 * 1024**2
"""A request is received, and then decoded: that needs twice its size."""


@pytest.fixture(scope="module")
def hardened() -> Iterator[Container]:
    with serving(*HARDENED, *DIGITS, "--memory=1g", "--memory-swap=1g", "--cpus=1") as container:
        yield container


def test_digits_are_recognised_through_the_published_port(hardened: Container, digits: Digits) -> None:
    images, labels = digits
    with Client(hardened.address(8001)) as client:
        assert (client.infer("digits", images).output.argmax(axis=1) == labels).mean() > 0.95
    assert "foldserve_batchnorms" in hardened.page("/metrics")[1]


def test_it_runs_without_rights(hardened: Container) -> None:
    status = hardened.python("print(open('/proc/1/status').read())")
    facts = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE))
    assert facts["Uid"].split() == ["65532"] * 4
    assert facts["Gid"].split() == ["65532"] * 4
    assert int(facts["CapEff"], 16) == int(facts["CapBnd"], 16) == 0
    assert facts["NoNewPrivs"] == "1"


def test_nothing_but_its_folders_can_be_written(hardened: Container) -> None:
    folders = ("/", "/models", "/opt/foldserve", "/cache", "/tmp")
    code = f"import os; print([folder for folder in {folders} if os.access(folder, os.W_OK)])"
    assert hardened.python(code) == "['/cache', '/tmp']"


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="NOT CHECKED: this machine has one processor only")
def test_threads_follow_the_limit_of_processors(hardened: Container) -> None:
    (ready,) = [record for record in hardened.log() if record["event"] == "model ready"]
    assert ready["instances"] * ready["intra_op_threads"] == 1
    assert (
        hardened.python("from foldserve.runtime.cpus import available_cpus; print(available_cpus())") == "1"
    )


def test_prepared_models_are_kept_in_the_volume(hardened: Container) -> None:
    assert (
        int(hardened.python("import pathlib; print(len(list(pathlib.Path('/cache').rglob('*.onnx'))))")) > 0
    )
    mounts = {mount["Destination"]: mount["Type"] for mount in hardened.facts()["Mounts"]}
    assert mounts["/cache"] == "volume"


def test_orphans_are_collected(hardened: Container) -> None:
    """Of an import's children, say: process 1 takes them over."""
    hardened.python("import os, time\nif os.fork() == 0: time.sleep(0.3); os._exit(0)")
    states = (
        "import glob, pathlib\n"
        "for file in glob.glob('/proc/[0-9]*/stat'):\n"
        "    print(pathlib.Path(file).read_text().rpartition(')')[2].split()[0])"
    )
    time.sleep(0.5)
    assert "Z" not in hardened.python(states)


def test_what_the_image_says_of_itself() -> None:
    (facts,) = json.loads(docker("image", "inspect", IMAGE))
    config = facts["Config"]
    assert config["User"] == "65532:65532"
    assert config["Healthcheck"]["Test"] == ["CMD", "foldserve", "probe"]
    assert config["Entrypoint"][-1] == "foldserve"
    assert set(config["ExposedPorts"]) == {"8001/tcp", "8002/tcp"}
    labels = {name.removeprefix("org.opencontainers.image."): text for name, text in config["Labels"].items()}
    version = docker("run", "--rm", IMAGE, "version").removeprefix("foldserve ")
    assert labels["version"] == version
    assert labels["licenses"] == "Apache-2.0"
    assert {"title", "description", "revision"} <= set(labels)


def test_it_has_one_onnxruntime_and_no_torch() -> None:
    code = "import importlib.metadata\nfor one in importlib.metadata.distributions():\n    print(one.name)"
    installed = docker("run", "--rm", "--entrypoint", "python3", IMAGE, "-c", code).split()
    assert [name for name in installed if name.startswith(("onnxruntime", "torch", "pip"))] == ["onnxruntime"]


def test_health_follows_the_server() -> None:
    """Starting, healthy, at SIGTERM unhealthy while it still answers, ended with 0."""
    options = ("--health-interval=500ms", "--health-retries=1", "--env=FOLDSERVE_NOT_READY_DELAY_S=10")
    with started(*HARDENED, *DIGITS, *options) as container:
        seen = [container.state["Health"]["Status"]]
        assert becomes_true(lambda: container.state["Health"]["Status"] == "healthy"), container.state
        docker("kill", "--signal", "TERM", container.id)
        assert becomes_true(lambda: container.state["Health"]["Status"] == "unhealthy"), container.state
        assert "NOT_SERVING" in container.state["Health"]["Log"][-1]["Output"]
        assert container.page("/livez")[0] == 200
        assert container.page("/readyz")[0] == 503
        assert container.wait() == 0
    assert seen == ["starting"]


def test_a_drain_under_load_fails_no_request(digits: Digits) -> None:
    """Callers ask one server until it says that it leaves, then the other: as a balancer does."""
    images = digits[0][:4]
    answers: list[str] = []
    failures: list[Exception] = []
    over = threading.Event()

    def call(leaving: str, staying: str) -> None:
        with Client(leaving) as first, Client(staying) as second:
            while not over.is_set():
                try:
                    client, name = (first, "leaving") if _ready(first) else (second, "staying")
                    client.infer("digits", images)
                    answers.append(name)
                except Exception as error:
                    failures.append(error)

    delay = f"--env=FOLDSERVE_NOT_READY_DELAY_S={NOT_READY_DELAY_S}"
    with serving(*HARDENED, *DIGITS, delay) as leaving, serving(*HARDENED, *DIGITS) as staying:
        addresses = leaving.address(8001), staying.address(8001)
        callers = [threading.Thread(target=call, args=addresses) for _ in range(CALLERS)]
        for caller in callers:
            caller.start()
        assert becomes_true(lambda: answers.count("leaving") > 10 * CALLERS)
        docker("stop", leaving.id)
        answered = answers.count("staying")
        assert becomes_true(lambda: answers.count("staying") > answered + CALLERS)
        over.set()
        for caller in callers:
            caller.join()
        assert leaving.state["ExitCode"] == 0
    assert failures == []


def _ready(client: Client) -> bool:
    """Whether the server says that it serves; one that is gone does not."""
    try:
        return client.ready()
    except Exception:
        return False


def test_a_crash_is_answered_by_a_restart() -> None:
    with serving(*HARDENED, *DIGITS, "--restart=unless-stopped") as container:
        kill_the_server = (
            "import glob, os, pathlib\n"
            "[os.kill(int(f.split('/')[2]), 9) for f in glob.glob('/proc/[0-9]*/cmdline')"
            " if b'bin/foldserve\\0serve' in pathlib.Path(f).read_bytes() and '/1/' not in f]"
        )
        container.python(kill_the_server)
        assert becomes_true(lambda: container.facts()["RestartCount"] == 1)
        assert becomes_true(container.is_ready), container.log()


@pytest.fixture(scope="module")
def cramped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """With digits in service, a model beside it that does not fit into the memory, and no reserves."""
    folder = tmp_path_factory.mktemp("large")
    folder.chmod(0o755)  # the server's user has to read it
    (folder / "1").mkdir()
    onnx.save(_large_model(), folder / "1" / "model.onnx")
    options = (
        *("--restart=unless-stopped", f"--memory={MEMORY}", f"--memory-swap={MEMORY}"),
        *("--env=FOLDSERVE_MODEL_CONTROL=explicit", "--env=FOLDSERVE_LOAD_MODELS=digits"),
        *("--volume", f"{folder}:/models/large:ro"),
    )
    with serving(*HARDENED, *DIGITS, *options) as container:
        yield container


def test_a_model_that_exceeds_the_memory_costs_a_restart_at_most(cramped: Container, digits: Digits) -> None:
    """It does not serve; whether the process that is killed is the server depends on who holds more then."""
    ask = "from foldserve_client import Client; Client('localhost:8003').load_model('large')"
    loaded = subprocess.run(
        ["docker", "exec", cramped.id, "python3", "-c", ask],
        capture_output=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert loaded.returncode != 0
    assert becomes_true(cramped.is_ready), cramped.log()
    with Client(cramped.address(8001)) as client:
        assert not client.ready("large")
        assert client.infer("digits", digits[0][:1]).output.shape == (1, 10)


def test_requests_that_exceed_the_memory_cost_a_restart(cramped: Container, digits: Digits) -> None:
    """--max-message-bytes lets more in than the container may hold: it is killed, and serves again."""
    began, restarts = str(int(time.time())), cramped.facts()["RestartCount"]
    rows = REQUEST_BYTES // digits[0][0].nbytes
    tensor = pb.ModelInferRequest.InferInputTensor(name="image", datatype="FP32", shape=[rows, 1, 8, 8])
    request = pb.ModelInferRequest(
        model_name="digits", inputs=[tensor], raw_input_contents=[bytes(REQUEST_BYTES)]
    )
    options = [("grpc.max_send_message_length", -1), ("grpc.enable_retries", 0)]
    with grpc.insecure_channel(cramped.address(8001), options) as channel:
        stub = GRPCInferenceServiceStub(channel)
        with pytest.raises(grpc.RpcError):
            stub.ModelInfer(request)
    assert becomes_true(lambda: cramped.facts()["RestartCount"] == restarts + 1), cramped.log()
    until = str(int(time.time()) + 1)
    assert cramped.id in docker("events", "--since", began, "--until", until, "--filter", "event=oom")
    assert becomes_true(cramped.is_ready), cramped.log()
    with Client(cramped.address(8001)) as client:
        assert client.infer("digits", digits[0][:1]).output.shape == (1, 10)


def test_a_signal_in_the_first_moment_ends_it() -> None:
    """Before Python is up nobody but process 1 could answer it."""
    with started(*HARDENED, *DIGITS) as container:
        docker("kill", "--signal", "TERM", container.id)
        assert container.wait() in {0, 143}


def _large_model() -> onnx.ModelProto:
    rows = WEIGHTS_BYTES // 4 // 1024
    weight = numpy_helper.from_array(np.ones((rows, 1024), np.float32), "weight")
    node = helper.make_node("Gemm", ["x", "weight"], ["y"])
    graph = helper.make_graph(
        [node],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1024])],
        [weight],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
