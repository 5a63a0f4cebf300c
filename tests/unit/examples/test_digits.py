"""The committed digits model: BatchNorms kept, really trained, the same function in both forms."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from foldserve.importing.tidy import count_batch_norms
from foldserve.importing.torch_program import count_program_batch_norms, to_onnx
from onnxruntime import GraphOptimizationLevel, InferenceSession, SessionOptions

EXAMPLES = Path(__file__).parents[3] / "examples"
ONNX = EXAMPLES / "models" / "digits" / "1" / "model.onnx"
PT2 = EXAMPLES / "models" / "digits_pt2" / "1" / "model.pt2"
BATCH_NORMS = 4


@pytest.fixture(scope="module")
def held_out() -> tuple[np.ndarray, np.ndarray]:
    with np.load(EXAMPLES / "data" / "digits_test.npz") as data:
        return data["images"], data["labels"]


def _logits(model: bytes, images: np.ndarray) -> np.ndarray:
    """As the graph stands: with graph optimisation ONNX Runtime would fold by itself."""
    options = SessionOptions()
    options.graph_optimization_level = GraphOptimizationLevel.ORT_DISABLE_ALL
    session = InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["logits"], {"images": images})[0])


def test_signature() -> None:
    model = ir.load(ONNX)
    assert [(v.name, v.dtype, str(v.shape)) for v in (*model.graph.inputs, *model.graph.outputs)] == [
        ("images", ir.DataType.FLOAT, "[batch,1,8,8]"),
        ("logits", ir.DataType.FLOAT, "[batch,10]"),
    ]


def test_graph_is_the_classic_case() -> None:
    model = ir.load(ONNX)
    onnx.checker.check_model(ONNX, full_check=True)
    assert count_batch_norms(model) == BATCH_NORMS
    convolutions = [node for node in model.graph if node.op_type == "Conv"]
    assert [len(node.inputs) for node in convolutions] == [3, 2, 2]  # with a bias, without, without
    producers = [
        node.predecessors()[0].op_type for node in model.graph if node.op_type == "BatchNormalization"
    ]
    assert producers == ["Conv", "Conv", "Conv", "Gemm"]


def test_statistics_are_those_of_training() -> None:
    model = ir.load(ONNX)
    for node in model.graph:
        if node.op_type == "BatchNormalization":
            values = [
                v.const_value.numpy() for v in node.inputs[1:] if v is not None and v.const_value is not None
            ]
            scale, bias, mean, variance = values
            for trained, untrained in ((scale, 1), (bias, 0), (mean, 0), (variance, 1)):
                assert np.abs(trained - untrained).max() > 0.01, node.name
                assert np.ptp(trained) > 0.01, node.name


def test_accuracy_on_images_it_never_saw(held_out: tuple[np.ndarray, np.ndarray]) -> None:
    images, labels = held_out
    assert images.shape == (360, 1, 8, 8)
    assert images.dtype == np.float32
    assert np.bincount(labels).min() >= 34  # every digit, stratified
    assert (_logits(ONNX.read_bytes(), images).argmax(1) == labels).mean() >= 0.98


@pytest.mark.filterwarnings(
    "ignore:.*LeafSpec:FutureWarning"
)  # torch's own code uses what torch has deprecated
def test_both_forms_are_the_same_model(held_out: tuple[np.ndarray, np.ndarray]) -> None:
    program = torch.export.load(PT2)
    assert count_program_batch_norms(program) == BATCH_NORMS
    imported = ir.to_proto(to_onnx(program)).SerializeToString()
    images = held_out[0]
    expected = _logits(ONNX.read_bytes(), images)
    assert np.array_equal(_logits(imported, images), expected)
    with torch.inference_mode():
        torch_logits = program.module()(torch.from_numpy(images))["logits"].numpy()
    assert np.linalg.norm(torch_logits - expected) / np.linalg.norm(expected) <= 1e-6


@pytest.mark.parametrize("model", [ONNX, PT2], ids=["onnx", "pt2"])
def test_samples_and_labels_lie_beside_the_versions(
    model: Path, held_out: tuple[np.ndarray, np.ndarray]
) -> None:
    folder = model.parents[1]
    with np.load(folder / "samples.npz") as samples:
        assert samples.files == ["images"]
        images = samples["images"]
    assert images.shape == (32, 1, 8, 8)
    assert images.dtype == np.float32
    assert (images.min(), images.max()) == (0, 1)
    seen = {image.tobytes() for image in images}
    assert not any(image.tobytes() in seen for image in held_out[0])  # training images
    assert (folder / "labels.txt").read_text().split() == [str(digit) for digit in range(10)]


def test_artefacts_are_small_and_name_no_machine() -> None:
    files = [path for path in EXAMPLES.rglob("*") if path.suffix in {".onnx", ".pt2", ".npz", ".txt"}]
    assert sum(path.stat().st_size for path in files) < 1_000_000
    for path in files:
        assert b"site-packages" not in path.read_bytes(), path
        assert b"train_digits.py" not in path.read_bytes(), path
