"""Models, their files and their names that mean harm: refused with a reason, and nobody notices."""

import io
import json
import uuid
import zipfile
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import onnx_ir as ir
import pytest
from fatal_models import divides_min_by_minus_one, fills_memory, loops_for_ever
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from integration.attacked import Attacked, attacked, bystander, digits_alone, request
from integration.repositories import load, refused
from small_models import chain, convolution, plus

INVALID, FAILED = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND
BOMB_BYTES = 100 * 2**20


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return digits_alone(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Attacked]:
    explicit = ["--model-control", "explicit", "--load-models", "digits", "--provider", "cpu"]
    with attacked(repository, *explicit, "--import-timeout-s", "5") as server:
        yield server


@pytest.fixture
def stub(server: Attacked) -> Iterator[GRPCInferenceServiceStub]:
    with bystander(server.address), grpc.insecure_channel(server.address) as channel:
        yield GRPCInferenceServiceStub(channel)


@pytest.mark.parametrize(
    "name",
    [
        "../digits",
        "../../etc",
        "/etc/passwd",
        "digits/../digits",
        "..",
        "digits\0",
        "digits/1",
        "\u202e",
        "%2e",
    ],
)
def test_names_lead_nowhere(stub: GRPCInferenceServiceStub, name: str) -> None:
    for ask in (
        lambda: stub.ModelInfer(pb.ModelInferRequest(model_name=name)),
        lambda: stub.ModelMetadata(pb.ModelMetadataRequest(name=name)),
        lambda: stub.ModelConfig(pb.ModelConfigRequest(name=name)),
        lambda: stub.ModelStatistics(pb.ModelStatisticsRequest(name=name)),
    ):
        with refused(NOT_FOUND, "no model is named"):
            ask()
    with pytest.raises(grpc.RpcError) as failure:
        load(stub, name)
    assert failure.value.code() in (INVALID, NOT_FOUND)
    for version in ("../1", "1/../1", "-1", "0", "1" * 30):
        asked = request()
        asked.model_version = version
        with pytest.raises(grpc.RpcError) as failure:
            stub.ModelInfer(asked)
        assert failure.value.code() in (INVALID, NOT_FOUND)


@pytest.mark.parametrize(
    "where", ["1/../../{}", "/tmp/{}", "1//{}", "..\\{}", "1/{}\0", "1/" + "a/" * 200 + "{}", "./{}"]
)
def test_files_of_an_upload_lie_in_its_folder(stub: GRPCInferenceServiceStub, where: str) -> None:
    name = f"foldserve-{uuid.uuid4()}"
    with refused(INVALID, "does not lie in the model's folder"):
        load(stub, "brought", {"config": "{}", f"file:{where.format(name)}": b"x"})
    assert not Path("/tmp", name).exists()


@pytest.mark.parametrize(
    "where", ["../../../../../../etc/passwd", "/etc/passwd", "1/../../digits/labels.txt"]
)
def test_configurations_name_files_of_their_model(stub: GRPCInferenceServiceStub, where: str) -> None:
    labels = {"output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [-1, 2], "label_filename": where}]}
    for config in (labels, {"default_model_filename": where}):
        parameters: dict[str, str | bytes] = {
            "config": json.dumps(config),
            "file:1/model.onnx": _serialised(plus(1)),
        }
        with refused(FAILED, "must name a file in the model's own folder"):
            load(stub, "brought", parameters)


@pytest.mark.parametrize("location", ["/etc/passwd", "../../../../../../etc/passwd", "linked"])
def test_weights_lie_in_their_models_folder(
    stub: GRPCInferenceServiceStub, repository: Path, location: str
) -> None:
    folder = repository / "outside" / "1"
    folder.mkdir(parents=True, exist_ok=True)
    ir.save(chain(["n", 3, 8, 8], convolution(3)), folder / "model.onnx", external_data="w" * len(location))
    model = (folder / "model.onnx").read_bytes().replace(b"w" * len(location), location.encode())
    (folder / "model.onnx").write_bytes(model)
    (folder / "linked").unlink(missing_ok=True)
    (folder / "linked").symlink_to("/etc/passwd")
    with refused(FAILED, "outside the model's folder"):
        load(stub, "outside")


def test_models_that_end_or_hold_up_whoever_runs_them(stub: GRPCInferenceServiceStub, tmp_path: Path) -> None:
    for model, reason in (
        (divides_min_by_minus_one(tmp_path / "least.onnx"), "died of SIGFPE"),
        (loops_for_ever(tmp_path / "loop.onnx"), "took longer than 5 s"),
    ):
        with refused(FAILED, reason):
            load(stub, "brought", {"config": "{}", "file:1/model.onnx": model.read_bytes()})


def test_a_model_that_wants_more_memory_than_there_is(stub: GRPCInferenceServiceStub, tmp_path: Path) -> None:
    """The child process that runs it first finds that out."""
    model = fills_memory(tmp_path / "large.onnx").read_bytes()
    with refused(grpc.StatusCode.FAILED_PRECONDITION, "want of memory"):
        load(stub, "brought", {"config": "{}", "file:1/model.onnx": model})


@pytest.mark.parametrize(
    "files",
    [
        {"1/model.onnx": b"\x2a" * 1_000_000},
        {"1/model.onnx": b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f"},
        {"1/model.pt2": b"PK\5\6" + bytes(18)},
        {"1/model.pt2": "bomb"},
        {"1/model.onnx": "plus", "samples.npz": "bomb"},
        {"1/model.onnx": "plus", "foldserve.yaml": "laughs"},
        {"1/model.onnx": "plus", "foldserve.yaml": b"[" * 100_000},
        {"1/model.onnx": "plus", "foldserve.yaml": b"max_batch_size: " + b"9" * 100_000},
        {"1/model.onnx": "plus", "foldserve.yaml": b"!!python/object/apply:os.system ['true']"},
        {"1/model.onnx/deeper": b"", "1/model.onnx": b""},
        {f"{2**80}/model.onnx": "plus"},
    ],
    ids=[
        "groups",
        "2^63",
        "empty zip",
        "zip bomb",
        "npz bomb",
        "laughs",
        "nested",
        "number",
        "code",
        "both",
        "2^80",
    ],
)
def test_files_that_are_made_to_harm(
    server: Attacked, stub: GRPCInferenceServiceStub, files: dict[str, bytes | str]
) -> None:
    server.forget_peak()
    before = server.status("VmRSS")
    contents = {
        f"file:{path}": MADE[file]() if isinstance(file, str) else file for path, file in files.items()
    }
    with pytest.raises(grpc.RpcError) as failure:
        load(stub, "brought", {"config": "{}", **contents})
    assert failure.value.code() in (INVALID, FAILED), failure.value
    assert failure.value.details()
    assert server.status("VmHWM") - before < BOMB_BYTES


@pytest.mark.parametrize(
    "config",
    ["[" * 100_000, '{"name": ' * 50_000, '{"max_batch_size": 1e999}', '{"max_batch_size": -1}', "NaN", "\0"],
)
def test_configurations_that_are_made_to_harm(stub: GRPCInferenceServiceStub, config: str) -> None:
    with pytest.raises(grpc.RpcError) as failure:
        load(stub, "digits", {"config": config})
    assert failure.value.code() in (INVALID, FAILED)


def _serialised(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString()


def _bomb() -> bytes:
    """An archive whose largest member takes a hundred thousand bytes for each hundred million it has."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("m/models/model.json", "{}")
        with archive.open("m/data/weights/x_config.json", "w") as member:
            for _ in range(2):
                member.write(bytes(BOMB_BYTES))
        with archive.open("x.npy", "w") as member:
            header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 2), np.float32)) | {
                "shape": (2**40, 2)
            }
            np.lib.format.write_array_header_1_0(member, header)
            member.write(bytes(1000))
    return content.getvalue()


def _laughs() -> bytes:
    """A billion laughs: ten references in each of nine levels."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    for level in range(1, 10):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join([*lines, "inputs: *a9"]).encode()


MADE = {"bomb": _bomb, "plus": lambda: _serialised(plus(1)), "laughs": _laughs}
