"""An engine that fails, memory that runs out, clocks that jump, a network that is not there."""

import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import numpy as np
import onnx
import pytest
from foldserve_client import Client
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from integration.attacked import QUICKLY_S, attacked, bystander, digits_alone, request
from integration.repositories import index, load, refused
from onnx import TensorProto, helper, numpy_helper

EXPLICIT = ["--model-control", "explicit", "--load-models", "digits", "--provider", "cpu"]
ONE = ["--instances", "1", "--intra-op-threads", "1"]
MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")
YEAR_S = 365 * 24 * 3600

CLOCK = r"""
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long offset(void) {
    long seconds = 0;
    FILE *file = fopen(getenv("CLOCK_OFFSET"), "r");
    if (file) { if (fscanf(file, "%ld", &seconds) != 1) seconds = 0; fclose(file); }
    return seconds;
}
int clock_gettime(clockid_t clock, struct timespec *now) {
    int failed = syscall(SYS_clock_gettime, clock, now);
    if (!failed && clock == CLOCK_REALTIME) now->tv_sec += offset();
    return failed;
}
time_t time(time_t *seconds) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (seconds) *seconds = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *value, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    value->tv_sec = now.tv_sec;
    value->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def test_an_engine_that_fails_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    """Only who brought the bad row is told; the others of the batch are answered."""
    table = numpy_helper.from_array(np.arange(4, dtype=np.float32).reshape(4, 1), "table")
    graph = helper.make_graph(
        [helper.make_node("Gather", ["table", "x"], ["y"])],
        "looked_up",
        [helper.make_tensor_value_info("x", TensorProto.INT64, ["batch"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 1])],
        [table],
    )
    (tmp_path / "table" / "1").mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "table" / "1" / "model.onnx")
    (tmp_path / "table" / "foldserve.yaml").write_text(
        "batching: {max_queue_delay_us: 200000, preferred_batch_sizes: [16]}\n"
    )
    with (
        attacked(digits_alone(tmp_path), *ONE, "--provider", "cpu") as server,
        bystander(server.address),
        ThreadPoolExecutor(16) as pool,
        Client(server.address) as client,
    ):

        def ask(row: int) -> float | str:
            try:
                return float(client.infer("table", np.array([row], np.int64))["y"][0, 0])
            except Exception as error:
                return str(error)

        for _ in range(5):
            answers = list(pool.map(ask, [0, 1, 99, 3] * 4))
            assert [answers[at::4] for at in (0, 1, 3)] == [[0.0] * 4, [1.0] * 4, [3.0] * 4]
            assert all("indices element out of data bounds" in str(answer) for answer in answers[2::4])


@contextmanager
def _memory_limit(limit: int) -> Iterator[Path]:
    """A control group of this machine's own."""
    group = MEMORY_GROUPS / f"foldserve-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit))
    except OSError:
        pytest.skip("a memory limit is made of a control group (version 1), which cannot be made here")
    try:
        yield group
    finally:
        group.rmdir()


def test_a_model_for_which_memory_does_not_suffice(tmp_path: Path) -> None:
    """What runs out of memory is the child process that tries the model first: Linux ends no other."""
    digits_alone(tmp_path)
    (tmp_path / "large" / "1").mkdir(parents=True)
    shape = numpy_helper.from_array(np.array([2**29], np.int64), "shape")
    one = numpy_helper.from_array(np.ones(1, np.float32))
    graph = helper.make_graph(
        [
            helper.make_node("ConstantOfShape", ["shape"], ["many"], value=one),
            helper.make_node("ReduceMax", ["many"], ["most"], keepdims=0),
            helper.make_node("Add", ["x", "most"], ["y"]),
        ],
        "large",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])],
        [shape],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "large" / "1" / "model.onnx")
    with _memory_limit(2**30) as group:
        in_group = ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]
        with (
            attacked(tmp_path, *EXPLICIT, *ONE, prefix=in_group) as server,
            bystander(server.address),
            grpc.insecure_channel(server.address) as channel,
        ):
            stub = GRPCInferenceServiceStub(channel)
            with refused(grpc.StatusCode.FAILED_PRECONDITION, "most likely for want of memory"):
                load(stub, "large")
            assert index(stub)["digits", "1"] == ("READY", "")


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that adds to the time of day the seconds in the file that ``CLOCK_OFFSET`` names.

    libfaketime lets Python neither sleep nor wait once it is told to leave the monotonic clock alone.
    """
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    if not shutil.which("cc"):
        pytest.skip("a clock that jumps takes a C compiler: apt-get install gcc")
    command = ["cc", "-shared", "-fPIC", "-o", str(library), "-x", "c", "-"]
    subprocess.run(command, input=CLOCK, text=True, check=True)
    return library


@pytest.mark.parametrize("jump_s", [YEAR_S, -YEAR_S], ids=["forward", "back"])
def test_a_clock_that_jumps(tmp_path: Path, wrong_clock: Path, jump_s: int) -> None:
    """By a year, while requests with and without a deadline are under way, and before a clean end."""
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "models").mkdir()
    wrong = {"LD_PRELOAD": str(wrong_clock), "CLOCK_OFFSET": str(offset)}
    with attacked(digits_alone(tmp_path / "models"), *ONE, environment=wrong) as server:
        with bystander(server.address), grpc.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            for jump in (jump_s, 0, jump_s):
                offset.write_text(str(jump))
                for timeout in (None, QUICKLY_S):
                    for _ in range(20):
                        assert stub.ModelInfer(request(), timeout=timeout).outputs
            address = f"http://127.0.0.1:{server.http_port}/?format=json"
            with urllib.request.urlopen(address, timeout=QUICKLY_S) as page:
                assert page.status == 200
            (told,) = stub.ModelStatistics(pb.ModelStatisticsRequest(name="digits")).model_stats
            assert abs(told.last_inference / 1000 - time.time() - jump_s) < 3600  # it did jump
        offset.write_text("0")


@pytest.mark.skipif(
    subprocess.run(["unshare", "--net", "true"], capture_output=True, check=False).returncode != 0,
    reason="a network of its own takes a right that this user lacks",
)
def test_nothing_is_asked_of_the_network(tmp_path: Path) -> None:
    """A server that has only a loopback of its own loads, imports, serves, and keeps no record of itself."""
    digits_alone(tmp_path)
    home = tmp_path / "home"
    home.mkdir()
    inside = tmp_path / "socket"
    without_network = ["unshare", "--net", "sh", "-c", 'ip link set lo up 2>/dev/null; exec "$@"', "sh"]
    options = ["--management-address", f"unix:{inside}", "--cache-dir", str(tmp_path / "cache")]
    with attacked(
        tmp_path / ".", *ONE, *options, prefix=without_network, environment={"HOME": str(home)}
    ) as server:
        with grpc.insecure_channel(f"unix:{inside}") as channel:
            assert GRPCInferenceServiceStub(channel).ModelInfer(request(), timeout=QUICKLY_S).outputs
        sockets = subprocess.run(
            [
                "nsenter",
                "--net",
                "--target",
                str(server.process.pid),
                "cat",
                "/proc/net/tcp",
                "/proc/net/udp",
            ],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        listening = "0A"
        states = [
            line.split()[3] for line in sockets.splitlines() if ":" in line and "local_address" not in line
        ]
        assert states
        assert set(states) == {listening}
    assert list(home.rglob("*")) == []  # nor does ONNX Runtime keep telemetry there
