"""A model in ONNX Runtime: what goes in and out, and what is said when it does not work."""

import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from foldserve.errors import (
    ExecutionFailed,
    InputRefused,
    InvalidModel,
    LoadFailed,
    ProviderUnavailable,
    UnsupportedModel,
)
from foldserve.runtime.cpus import available_cpus, cpu_model
from foldserve.runtime.cuda import cuda_options
from foldserve.runtime.distribution import require_single_onnxruntime
from foldserve.runtime.onnxruntime_session import (
    UNSOUND_OPTIMISERS,
    OnnxRuntimeSession,
)
from foldserve.runtime.providers import resolve_provider
from foldserve.runtime.session import Array, Execution, Session
from foldserve.settings import CudnnSearch, Precision, ProviderChoice
from running import EXAMPLE_MODELS
from unit.runtime.text_models import cpu, identity, model


def test_outputs_come_in_the_order_asked_for() -> None:
    session = cpu(model("g (float[n] x) => (float[n] a, float[n] b) { a = Neg(x)  b = Add(x, x) }"))
    x = np.array([3.0], np.float32)
    assert [float(array[0]) for array in session.run({"x": x})] == [-3, 6]
    assert [float(array[0]) for array in session.run({"x": x}, ["b", "a"])] == [6, -3]
    assert [float(array[0]) for array in session.run({"x": x}, ["b"])] == [6]
    assert [float(array[0]) for array in session.run({"x": x}, [])] == [-3, 6]


def test_unnamed_dimensions_are_unknown() -> None:
    shape = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, "n", 3])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [shape],
        [onnx.ValueInfoProto(name="y", type=shape.type)],
    )
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    assert cpu(proto.SerializeToString()).inputs[0].shape == (None, "n", 3)


def test_external_data_beside_the_file_is_found(tmp_path: Path) -> None:
    weight = np.arange(600, dtype=np.float32).reshape(2, 300)
    source = model("g (float[n, 2] x) => (float[n, 300] y) { y = MatMul(x, w) }", w=weight)
    file = tmp_path / "model.onnx"
    onnx.save(onnx.load_from_string(source), file, save_as_external_data=True, location="weights")
    (result,) = cpu(file).run({"x": np.eye(2, dtype=np.float32)})
    np.testing.assert_array_equal(result, weight)
    (tmp_path / "weights").unlink()
    with pytest.raises(InvalidModel, match=r"model\.onnx cannot be loaded: External data .*weights"):
        cpu(file)


def test_the_reference_is_not_optimised_and_unsound_optimisers_can_be_left_out() -> None:
    """ONNX Runtime fuses Pad(0) → MaxPool as if padded with −∞: visible where all values are negative."""
    source = model(
        """g (float[1, 1, 2, 2] x) => (float[1, 1, 2, 2] y) {
            p = Pad(x, pads)  y = MaxPool<kernel_shape = [3, 3]>(p)
        }""",
        pads=np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    )
    x = np.full((1, 1, 2, 2), -5, np.float32)
    true = np.zeros((1, 1, 2, 2), np.float32)
    np.testing.assert_array_equal(cpu(source, optimise=False).run({"x": x})[0], true)
    assert cpu(source).run({"x": x})[0].max() == -5, "mended in this ONNX Runtime: drop UNSOUND_OPTIMISERS"
    sound = OnnxRuntimeSession(source, provider=ProviderChoice.CPU, disabled_optimisers=UNSOUND_OPTIMISERS)
    np.testing.assert_array_equal(sound.run({"x": x})[0], true)


def test_the_provider_is_the_one_that_runs() -> None:
    source = model("g (float[n] x) => (float[n] y) { y = Relu(x) }")
    assert OnnxRuntimeSession(source).provider is resolve_provider(ProviderChoice.AUTO)
    session: Session = cpu(source)
    assert session.provider == "cpu"


def test_a_session_says_how_it_runs() -> None:
    execution = cpu(model(RELU)).execution
    assert execution == Execution(
        runtime=f"onnxruntime {version(require_single_onnxruntime())}",
        device=cpu_model() or "CPU",
        precision=Precision.FLOAT32,
        threads=1,
        streams=None,
        layers={},
    )
    session = OnnxRuntimeSession(model(RELU), provider=ProviderChoice.CPU)
    assert session.execution.threads == available_cpus()


def test_cuda_is_refused_where_it_does_not_run() -> None:
    if resolve_provider(ProviderChoice.AUTO) == "cuda":
        pytest.skip("CUDA runs here")
    with pytest.raises(ProviderUnavailable, match="provider 'cuda' was requested, but"):
        OnnxRuntimeSession(
            model("g (float[n] x) => (float[n] y) { y = Relu(x) }"), provider=ProviderChoice.CUDA
        )


RELU = "g (float[n] x) => (float[n] y) { y = Relu(x) }"
TRUNCATED = model("g (float[n] x) => (float[n] y) { y = Add(x, w) }", w=np.ones(1000, np.float32))[:-2000]


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        (b"no model at all", InvalidModel, "protobuf parsing failed"),
        (b"", InvalidModel, "No graph was found"),
        (TRUNCATED, InvalidModel, "protobuf parsing failed"),
        (Path("nowhere.onnx"), InvalidModel, "nowhere.onnx cannot be loaded: .*doesn't exist"),
        (model("g (float[n] x) => (float[n] y) { y = Add(x, q) }"), InvalidModel, "'q' is not a graph input"),
        (
            model("g (float[n, 2] x) => (float[n, 2] y) { y = MatMul(x, w) }", w=np.ones((3, 2), np.float32)),
            InvalidModel,
            "MatMul.*Incompatible dimensions",
        ),
        (model(RELU, ir_version=99), UnsupportedModel, "IR version: 99"),
        (model(RELU, opset=99), UnsupportedModel, "Opset 99"),
        (model(RELU.replace("Relu", "Rectify")), UnsupportedModel, "No Op registered for Rectify"),
        (
            model(
                "g (bfloat16[n, 1, 4] x, bfloat16[1, 1, 2] w) => (bfloat16[n, 1, 3] y) { y = Conv(x, w) }",
                opset=22,
            ),
            UnsupportedModel,
            "Could not find an implementation for Conv",
        ),
        (
            model("g (float[n] x) => (seq(float[n]) y) { y = SequenceConstruct(x) }"),
            UnsupportedModel,
            r"'y' is a seq\(tensor\(float\)\); inputs and outputs must be one of tensor\(bool\)",
        ),
        (
            model("g (float8e4m3fn[2] x) => (float8e4m3fn[2] y) { y = Identity(x) }", opset=21),
            UnsupportedModel,
            r"'x' is a tensor\(float8e4m3fn\)",
        ),
    ],
)
def test_a_model_that_cannot_be_loaded_says_why(
    source: Path | bytes, error: type[LoadFailed], text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(error, match=text) as failure:
        cpu(source)
    assert "onnxruntime_src" not in str(failure.value)
    assert "ONNXRuntimeError" not in str(failure.value)
    assert capfd.readouterr() == ("", "")


def test_errors_call_the_model_by_its_name() -> None:
    with pytest.raises(InvalidModel, match=r"^model 'digits' version 1 cannot be loaded"):
        OnnxRuntimeSession(b"", provider=ProviderChoice.CPU, name="model 'digits' version 1")


def test_a_failing_run_says_what_failed_but_not_on_the_terminal(
    capfd: pytest.CaptureFixture[str],
) -> None:
    session = cpu(
        model("g (float[n] x) => (float[3, 4] y) { y = Reshape(x, shape) }", shape=np.array([3, 4], np.int64))
    )
    with pytest.raises(ExecutionFailed, match=r"cannot be reshaped.*\{5\}.*\{3,4\}") as failure:
        session.run({"x": np.ones(5, np.float32)})
    assert "onnxruntime_src" not in str(failure.value)
    assert capfd.readouterr() == ("", "")
    assert session.run({"x": np.ones(12, np.float32)})[0].shape == (3, 4)


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
def test_wrong_inputs_fail(inputs: dict[str, Array]) -> None:
    with pytest.raises(ExecutionFailed):
        cpu(model(RELU)).run(inputs)


def test_an_unknown_output_fails() -> None:
    with pytest.raises(ExecutionFailed, match=r"Invalid output name: ?q"):
        cpu(model(RELU)).run({"x": np.ones(2, np.float32)}, ["q"])


def test_a_closed_session_fails() -> None:
    session = cpu(model(RELU))
    session.close()
    session.close()
    with pytest.raises(ExecutionFailed, match="closed"):
        session.run({"x": np.ones(2, np.float32)})


def test_threads_get_their_own_answers() -> None:
    session = cpu(model("g (float[n] x) => (float[n] y) { y = Mul(x, x) }"))
    results: dict[int, bool] = {}

    def work(number: int) -> None:
        x = np.full(1000, number, np.float32)
        results[number] = all((session.run({"x": x})[0] == number**2).all() for _ in range(50))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


@pytest.mark.parametrize(("wanted", "given"), [(False, "0"), (True, "1")])
def test_tf32_only_where_it_is_asked_for(wanted: bool, given: str) -> None:
    options = cuda_options(CudnnSearch.HEURISTIC, tf32=wanted)
    assert options == {"use_tf32": given, "prefer_nhwc": "0", "cudnn_conv_algo_search": "HEURISTIC"}


def test_channels_last_only_where_it_is_asked_for() -> None:
    first, last = (cuda_options(CudnnSearch.HEURISTIC, channels_last=wanted) for wanted in (False, True))
    assert last == first | {"prefer_nhwc": "1"}


def test_shrinking_gives_back_what_larger_runs_took() -> None:
    """In a process of its own: freed memory of other tests would come and go in between."""
    program = """
import re, sys
from pathlib import Path
import numpy as np
from foldserve.runtime.memory import return_freed_memory
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.settings import ProviderChoice

def megabytes():
    return_freed_memory()
    return int(re.search(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024

session = OnnxRuntimeSession(Path(sys.argv[1]), provider=ProviderChoice.CPU, intra_op_threads=1)
one = {"images": np.ones((1, 1, 8, 8), np.float32)}
expected = session.run(one)
before = megabytes()
session.run({"images": np.ones((20_000, 1, 8, 8), np.float32)})
kept = megabytes() - before
session.shrink(one)
left = megabytes() - before
assert kept > 50 and left < kept / 5, (kept, left)
assert np.array_equal(session.run(one), expected)
"""
    model_file = EXAMPLE_MODELS / "digits" / "1" / "model.onnx"
    run = subprocess.run(
        [sys.executable, "-c", program, str(model_file)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr


def test_nothing_is_shrunk_where_nothing_is_kept() -> None:
    source = model("g (float[n, 2] x) => (float[n, 2] y) { y = Identity(x) }")
    session = OnnxRuntimeSession(source, provider=ProviderChoice.CPU, keeps_memory=False)
    session.shrink({"x": np.zeros((1, 2), np.float32)})


def test_what_a_model_refuses_does_not_shrink_it() -> None:
    with pytest.raises(InputRefused):
        identity("tensor(float)").shrink({"x": np.zeros((1, 3), np.float32)})


def test_no_rows_do_not_end_the_process() -> None:
    """The runtime's LSTM does not survive them (1.31), so they never get there."""
    recurrent = cpu(
        model(
            """g (float[n, 5, 4] x) => (float[n, 3] y) {
                steps = Transpose <perm = [1, 0, 2]> (x)
                all, last = LSTM <hidden_size = 3> (steps, w, r)
                y = Squeeze (last, first)
            }""",
            w=np.ones((1, 12, 4), np.float32),
            r=np.ones((1, 12, 3), np.float32),
            first=np.zeros(1, np.int64),
        )
    )
    (answer,) = recurrent.run({"x": np.zeros((0, 5, 4), np.float32)})
    assert answer.shape == (0, 3)
    assert answer.dtype == np.float32
    with pytest.raises(InputRefused):
        recurrent.run({"x": np.zeros((0, 5, 9), np.float32)})


def test_no_rows_of_strings_are_answered() -> None:
    (answer,) = identity("tensor(string)").run({"x": np.empty((0, 2), np.object_)})
    assert answer.shape == (0, 2)


def test_what_has_no_rows_to_be_without_is_run_as_it_is() -> None:
    """The first axis of this input is none of the output."""
    counted = cpu(model("g (float[n, 2] x) => (int64 y) { y = Size(x) }"))
    assert counted.run({"x": np.zeros((0, 2), np.float32)})[0] == 0
