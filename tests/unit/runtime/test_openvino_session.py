"""A model in OpenVINO: what goes in and out, what is refused before it gets there, and how it really runs."""

import gc
import threading
from importlib.metadata import version
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.errors import (
    ExecutionFailed,
    InputRefused,
    InvalidModel,
    LoadFailed,
    ProviderUnavailable,
    UnsupportedModel,
)
from foldserve.parity.measures import distance
from foldserve.runtime.cpus import available_cpus
from foldserve.runtime.onnx_tensors import DTYPES
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.openvino_module import cpu_capabilities
from foldserve.runtime.openvino_session import OpenVinoSession, openvino_missing
from foldserve.runtime.session import Array, Session
from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import Precision, ProviderChoice
from onnx import numpy_helper
from running import EXAMPLE_MODELS
from zoo.proof import exported
from zoo.table import ZOO

DIGITS = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
RELU = "g (float[n] x) => (float[n] y) { y = Relu(x) }"
REFUSED = frozenset({"UINT32", "UINT64", "INT64", "DOUBLE", "STRING"})
TEXT_NAMES = {"FLOAT": "float", "DOUBLE": "double"}
HAS_BFLOAT16 = "BF16" in cpu_capabilities()


def write(folder: Path, text: str, *, opset: int = 17, **weights: Array) -> Path:
    """The file of a model from ONNX's text form, with ``weights`` as initialisers."""
    parsed = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["": {opset}]> {text}')
    parsed.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in weights.items())
    file = folder / "model.onnx"
    onnx.save(parsed, file)
    return file


def opened(source: Path, *, streams: int = 1, warm_rows: int = 1) -> OpenVinoSession:
    return OpenVinoSession(source, threads=1, streams=streams, warm_rows=warm_rows)


def reference(source: Path) -> OnnxRuntimeSession:
    return OnnxRuntimeSession(source, provider=ProviderChoice.CPU, optimise=False, intra_op_threads=1)


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")
@pytest.mark.filterwarnings("ignore:The tensor attributes .* were assigned during export:UserWarning")
@pytest.mark.parametrize("name", ["resnet_18", "unet", "crnn"])
def test_it_answers_as_the_reference_does(name: str, tmp_path: Path) -> None:
    (architecture,) = (architecture for architecture in ZOO if architecture.name == name)
    file = tmp_path / "model.onnx"
    onnx.save(ir.to_proto(exported(architecture)[1]), file)
    session, truth = opened(file, warm_rows=2), reference(file)
    assert (session.inputs, session.outputs) == (truth.inputs, truth.outputs)
    for rows in (3, 1, 2):
        inputs = {session.inputs[0].name: architecture.inputs(rows, rows).numpy()}
        for answer, true in zip(session.run(inputs), truth.run(inputs), strict=True):
            assert (answer.shape, answer.dtype) == (true.shape, true.dtype)
            assert distance(true, answer).relative_l2 <= 1e-5


@pytest.mark.parametrize("element", sorted(DTYPES.keys() - REFUSED))
def test_every_dtype_that_it_takes_goes_in_and_out_unchanged(element: str, tmp_path: Path) -> None:
    text_name, dtype = TEXT_NAMES.get(element, element.lower()), DTYPES[element]
    session = opened(
        write(tmp_path, f"g ({text_name}[n, 2] x) => ({text_name}[n, 2] y) {{ y = Identity(x) }}")
    )
    assert session.inputs == (TensorSpec("x", dtype, ("n", 2)),)
    for array in (np.array([[0, 1], [1, 0]]).astype(dtype), np.empty((0, 2), dtype)):
        (result,) = session.run({"x": array})
        assert (result.dtype, result.shape) == (dtype, array.shape)
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("element", sorted(REFUSED))
def test_dtypes_that_it_would_narrow_or_does_not_have_are_refused(element: str, tmp_path: Path) -> None:
    text_name = TEXT_NAMES.get(element, element.lower())
    file = write(tmp_path, f"g ({text_name}[n] x) => ({text_name}[n] y) {{ y = Identity(x) }}")
    with pytest.raises(UnsupportedModel, match=r"'x' (holds strings|is .* would compute in 32 bits)"):
        opened(file)


def test_classes_are_given_as_int64(tmp_path: Path) -> None:
    session = opened(write(tmp_path, "g (float[n, 3] x) => (int64[n, 1] y) { y = ArgMax<axis = 1>(x) }"))
    (classes,) = session.run({"x": np.eye(3, dtype=np.float32)})
    np.testing.assert_array_equal(classes, np.array([[0], [1], [2]], np.int64))
    assert classes.dtype == np.int64


@pytest.mark.parametrize("dtype", [np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)], ids=str)
def test_views_transposed_unaligned_and_read_only_are_taken(
    dtype: np.dtype[np.generic], tmp_path: Path
) -> None:
    element = "float" if dtype == np.float32 else "bfloat16"
    session = opened(write(tmp_path, f"g ({element}[n, 2] x) => ({element}[n, 2] y) {{ y = Identity(x) }}"))
    array = np.arange(8).reshape(4, 2).astype(dtype)
    shifted = np.frombuffer(b"\x00" + array.tobytes(), np.uint8)[1:].view(dtype).reshape(4, 2)
    for view in (array[::-1], np.asfortranarray(array), shifted):
        np.testing.assert_array_equal(session.run({"x": view})[0], view)


def test_a_scalar_stays_a_scalar(tmp_path: Path) -> None:
    session = opened(write(tmp_path, "g (float x) => (float y) { y = Neg(x) }"))
    (result,) = session.run({"x": np.array(3, np.float32)})
    assert (result.shape, float(result)) == ((), -3.0)


def test_outputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    session = opened(
        write(tmp_path, "g (float[n] x) => (float[n] a, float[n] b) { a = Neg(x)  b = Add(x, x) }")
    )
    x = np.array([3.0], np.float32)
    for names, expected in ((None, [-3, 6]), (["b", "a"], [6, -3]), (["b"], [6]), ([], [-3, 6])):
        assert [float(array[0]) for array in session.run({"x": x}, names)] == expected


def test_answers_outlive_the_runs_and_inputs_are_left_as_they_are(tmp_path: Path) -> None:
    session = opened(write(tmp_path, "g (float[n] x) => (float[n] y) { a = Relu(x)  y = Neg(a) }"))
    inputs = [np.full(5000, number, np.float32) for number in range(20)]
    answers = [session.run({"x": x})[0] for x in inputs]
    same = session.run({"x": inputs[0]})[0]
    session.close()
    gc.collect()
    for number, (x, answer) in enumerate(zip(inputs, answers, strict=True)):
        assert (x == number).all()
        assert (answer == -number).all()
        assert not np.shares_memory(x, answer)
    assert not np.shares_memory(same, answers[0])


def test_external_data_beside_the_file_is_found(tmp_path: Path) -> None:
    weight = np.arange(600, dtype=np.float32).reshape(2, 300)
    file = write(tmp_path, "g (float[n, 2] x) => (float[n, 300] y) { y = MatMul(x, w) }", w=weight)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="weights")
    np.testing.assert_array_equal(opened(file).run({"x": np.eye(2, dtype=np.float32)})[0], weight)
    (tmp_path / "weights").unlink()
    with pytest.raises(InvalidModel, match=r"cannot be loaded by OpenVINO: .*weights"):
        opened(file)


def test_a_session_says_how_it_runs() -> None:
    execution = OpenVinoSession(DIGITS).execution
    assert execution.runtime == f"openvino {version('openvino')}"
    assert execution.precision is Precision.FLOAT32
    assert execution.threads == available_cpus()
    assert execution.streams == 1
    assert execution.layers["f32"] >= 3
    assert "bf16" not in execution.layers
    session: Session = opened(DIGITS)
    assert session.execution.threads == 1
    assert session.provider == "cpu"


def test_no_more_streams_run_than_there_are_processors() -> None:
    wanted = available_cpus() + 1
    execution = opened(DIGITS, streams=wanted).execution
    assert execution.threads == 1
    assert execution.streams is not None
    assert 1 <= execution.streams <= wanted


@pytest.mark.skipif(HAS_BFLOAT16, reason="this CPU computes in bfloat16")
def test_bfloat16_is_refused_where_the_cpu_would_compute_in_float32() -> None:
    assert openvino_missing(Precision.BFLOAT16) == "this CPU has no bfloat16 units"
    with pytest.raises(ProviderUnavailable, match="this CPU has no bfloat16 units"):
        OpenVinoSession(DIGITS, precision=Precision.BFLOAT16)


@pytest.mark.skipif(not HAS_BFLOAT16, reason="this CPU does not compute in bfloat16")
def test_bfloat16_is_what_runs_where_the_cpu_has_it() -> None:
    execution = OpenVinoSession(DIGITS, precision=Precision.BFLOAT16).execution
    assert execution.precision is Precision.BFLOAT16
    assert execution.layers["bf16"] >= 3
    images = np.random.default_rng(0).random((4, 1, 8, 8), np.float32)
    exact = opened(DIGITS).run({"images": images})[0]
    rounded = OpenVinoSession(DIGITS, precision=Precision.BFLOAT16).run({"images": images})[0]
    assert 0 < distance(exact, rounded).relative_l2 < 0.1


@pytest.mark.parametrize("precision", [Precision.TF32, Precision.INT8])
def test_precisions_that_it_does_not_have_are_refused(precision: Precision) -> None:
    with pytest.raises(ProviderUnavailable, match=f"computes in float32, .* not in {precision}"):
        OpenVinoSession(DIGITS, precision=precision)


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("g (float[n] x) => (float[n] y) { y = Rectify(x) }", UnsupportedModel, "operations: Rectify"),
        ("g (float[n] x) => (float[n] y) { y = Add(x, q) }", InvalidModel, '"q"'),
        (
            "g (float[n] x) => (seq(float[n]) y) { y = SequenceConstruct(x) }",
            UnsupportedModel,
            "'y' is no tensor",
        ),
        (
            "g (float8e4m3fn[2] x) => (float8e4m3fn[2] y) { y = Identity(x) }",
            UnsupportedModel,
            "'x' is FLOAT8E4M3FN; inputs and outputs must be one of BOOL",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    text: str, error: type[LoadFailed], said: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path, text, opset=21)
    with pytest.raises(error, match=said) as failure:
        OpenVinoSession(file, name="model 'digits' version 1")
    assert str(failure.value).startswith("model 'digits' version 1")
    assert "src/" not in str(failure.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"no model at all"])
def test_a_damaged_file_is_refused_quietly(
    content: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(InvalidModel, match=r"model\.onnx cannot be loaded"):
        opened(file)
    with pytest.raises(InvalidModel, match=r"nowhere\.onnx cannot be loaded: .*No such file"):
        opened(tmp_path / "nowhere.onnx")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.ones(2, np.float64)},
        {"x": np.ones((2, 2), np.float32)},
        {"x": np.ones(2, np.float32), "q": np.ones(2, np.float32)},
    ],
    ids=["missing", "dtype", "rank", "unknown"],
)
def test_wrong_inputs_are_refused(inputs: dict[str, Array], tmp_path: Path) -> None:
    with pytest.raises(InputRefused, match="does not take"):
        opened(write(tmp_path, RELU)).run(inputs)


def test_a_fixed_size_is_kept_and_an_unknown_output_refused() -> None:
    session = opened(DIGITS)
    with pytest.raises(InputRefused, match=r"'images' must be float32 \['batch', 1, 8, 8\]"):
        session.run({"images": np.ones((1, 1, 9, 9), np.float32)})
    with pytest.raises(InputRefused, match="has no output 'q', but logits"):
        session.run({"images": np.ones((1, 1, 8, 8), np.float32)}, ["q"])


def test_what_does_not_fit_inside_is_refused_instead_of_answered_from_memory(tmp_path: Path) -> None:
    """OpenVINO would answer with twelve values of which seven were never written."""
    session = opened(
        write(tmp_path, "g (float[n] x) => (float[3, 4] y) { y = Reshape(x, s) }", s=np.array([3, 4]))
    )
    for _ in range(2):
        with pytest.raises(
            InputRefused, match=r"'x' float32 \[5\]: 'y': .*\[3,4\] is incompatible"
        ) as failure:
            session.run({"x": np.ones(5, np.float32)})
        assert "src/" not in str(failure.value)
        assert session.run({"x": np.ones(12, np.float32)})[0].shape == (3, 4)


def test_an_empty_batch_is_a_batch_even_to_pooling(tmp_path: Path) -> None:
    pooled = "float[n, 1, 4, 4] x) => (float[n, 1, 2, 2] y"
    text = f"g ({pooled}) {{ y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x) }}"
    (result,) = opened(write(tmp_path, text)).run({"x": np.empty((0, 1, 4, 4), np.float32)})
    assert result.shape == (0, 1, 2, 2)
    assert result.dtype == np.float32


def test_an_image_smaller_than_the_kernel_is_refused(tmp_path: Path) -> None:
    session = opened(
        write(
            tmp_path,
            "g (float[n, 1, h, w] x) => (float[n, 1, p, q] y) { y = Conv(x, k) }",
            k=np.ones((1, 1, 40, 40), np.float32),
        )
    )
    with pytest.raises(InputRefused, match="larger than the data shape"):
        session.run({"x": np.ones((1, 1, 3, 3), np.float32)})
    (result,) = session.run({"x": np.ones((2, 1, 40, 41), np.float32)})
    np.testing.assert_array_equal(result, np.full((2, 1, 1, 2), 1600, np.float32))


def test_a_closed_session_fails(tmp_path: Path) -> None:
    session = opened(write(tmp_path, RELU))
    session.close()
    session.close()
    with pytest.raises(ExecutionFailed, match="closed"):
        session.run({"x": np.ones(2, np.float32)})


@pytest.mark.parametrize("streams", [1, 2])
def test_threads_get_their_own_answers(streams: int) -> None:
    session = opened(DIGITS, streams=streams, warm_rows=2)
    images = [
        np.random.default_rng(number).random((1 + number % 3, 1, 8, 8), np.float32) for number in range(8)
    ]
    alone = [session.run({"images": image})[0] for image in images]
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        answers = [session.run({"images": images[number]})[0] for _ in range(50)]
        results[number] = all(np.array_equal(answer, alone[number]) for answer in answers)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)
