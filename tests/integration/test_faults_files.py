"""Files that vanish, are half there, or cannot be read or written: who is served already notices nothing."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from integration.attacked import Attacked, attacked, bystander, digits_alone
from integration.repositories import eventually, index, load, refused
from small_models import plus, put

FAILED, NOT_FOUND = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.NOT_FOUND
EXPLICIT = ["--model-control", "explicit", "--load-models", "digits", "--provider", "cpu"]
ONE = ["--instances", "1", "--intra-op-threads", "1"]


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_alone(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Attacked]:
    with attacked(repository, *EXPLICIT, *ONE) as server:
        yield server


@pytest.fixture
def stub(server: Attacked) -> Iterator[GRPCInferenceServiceStub]:
    with bystander(server.address), grpc.insecure_channel(server.address) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A file system of one page that is taken."""
    folder = tmp_path_factory.mktemp("full")
    if (
        os.getuid()
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=4096", "tmpfs", folder], capture_output=True, check=False
        ).returncode
    ):
        pytest.skip("a full disk is made of a tmpfs, which this user may not mount")
    (folder / "all").write_bytes(bytes(4096))
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_folder_that_vanishes_after_its_model_was_loaded(
    stub: GRPCInferenceServiceStub, repository: Path
) -> None:
    put(repository, 1, plus(1), "gone")
    load(stub, "gone")
    shutil.rmtree(repository / "gone")
    assert index(stub)["gone", "1"][0] == "READY"
    with refused(NOT_FOUND, "no repository has a model 'gone'"):
        load(stub, "gone")
    assert index(stub)["gone", "1"][0] == "READY"


def test_half_a_file(stub: GRPCInferenceServiceStub, repository: Path) -> None:
    """Wherever it breaks off, the model that serves goes on."""
    file = put(repository, 1, plus(1), "half")
    whole = file.read_bytes()
    load(stub, "half")
    for length in (0, len(whole) // 3, len(whole) - 1):
        file.write_bytes(whole[:length])
        with refused(FAILED, "model 'half' failed to load"):
            load(stub, "half")
        assert "loading it again failed" in index(stub)["half", "1"][1]
        assert index(stub)["half", "1"][0] == "READY"
    file.write_bytes(whole)
    load(stub, "half")
    assert index(stub)["half", "1"] == ("READY", "")


@pytest.mark.parametrize("kind", ["folder", "dangling link", "link to itself", "pipe"])
def test_what_is_no_file(stub: GRPCInferenceServiceStub, repository: Path, kind: str) -> None:
    folder = repository / kind / "1"
    folder.mkdir(parents=True)
    file = folder / "model.onnx"
    match kind:
        case "folder":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case _:
            file.symlink_to(file if kind == "link to itself" else folder / "nothing")
    with refused(FAILED, f"model '{kind}' failed to load"):
        load(stub, kind)


@pytest.mark.skipif(os.getuid() != 0 or not shutil.which("chattr"), reason="needs another user to be refused")
def test_a_repository_without_the_right_to_read_it(tmp_path: Path) -> None:
    """A server that may not override modes; what it may read it serves."""
    digits_alone(tmp_path)
    file = put(tmp_path, 1, plus(1), "secret")
    config = tmp_path / "hidden" / "config.pbtxt"
    put(tmp_path, 1, plus(1), "hidden")
    config.write_text("")
    file.chmod(0)
    config.chmod(0)
    as_plain_user = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
    plain = [*as_plain_user, "--inh-caps", "-dac_override,-dac_read_search", "--clear-groups"]
    with (
        attacked(tmp_path, *ONE, "--provider", "cpu", prefix=plain) as server,
        bystander(server.address),
        grpc.insecure_channel(server.address) as channel,
    ):
        reasons = {
            name: reason for (name, _), (_, reason) in index(GRPCInferenceServiceStub(channel)).items()
        }
        assert "Permission denied" in reasons["secret"]
        assert "Permission denied" in reasons["hidden"]


def test_a_cache_on_a_full_disk(full_disk: Path, repository: Path) -> None:
    with attacked(repository, *EXPLICIT, *ONE, "--cache-dir", str(full_disk / "cache")) as server:
        with bystander(server.address), grpc.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            put(repository, 1, plus(3), "uncached")
            load(stub, "uncached")
            assert index(stub)["uncached", "1"] == ("READY", "")
        warnings = [str(record["event"]) for record in server.records if record["level"] == "warning"]
        assert any(warning.startswith("the cache cannot be written") for warning in warnings)


def test_a_disk_that_is_full_for_traces(full_disk: Path, repository: Path) -> None:
    with attacked(repository, *EXPLICIT, *ONE, "--trace-file", str(full_disk / "traces")) as server:
        with bystander(server.address), grpc.insecure_channel(server.address) as channel:
            stub = GRPCInferenceServiceStub(channel)
            _trace_everything(stub)
            put(repository, 1, plus(4), "traced")
            load(stub, "traced")
        assert server.process.poll() is None


def test_a_repository_that_comes_and_goes(tmp_path: Path) -> None:
    """As a network file system does."""
    models = tmp_path / "models"
    models.mkdir()
    digits_alone(models)
    poll = ["--model-control", "poll", "--poll-interval-s", "0.05"]
    with attacked(models, *poll, *ONE) as server, bystander(server.address):
        for _ in range(3):
            models.rename(tmp_path / "elsewhere")
            seen = len(server.records)
            eventually(lambda seen=seen: len(server.records) > seen)  # type: ignore[misc]  # a lambda's default
            (tmp_path / "elsewhere").rename(models)
            eventually(lambda: server.records[-1]["event"] == "the repositories can be read again")


def _trace_everything(stub: GRPCInferenceServiceStub) -> None:
    from foldserve_proto import grpc_service_pb2 as pb

    asked = pb.TraceSettingRequest()
    asked.settings["trace_level"].value.append("TIMESTAMPS")
    asked.settings["trace_rate"].value.append("1")
    stub.TraceSetting(asked)
