"""Real messages of ONNX Runtime, and what is left of them."""

import pytest
from foldserve.runtime.messages import first_logged_error, useful_part

CORE = "/onnxruntime_src/onnxruntime/core"
FAIL = "[ONNXRuntimeError] : 1 : FAIL"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (
            "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : Load model from /models/a b.onnx failed:"
            "Protobuf parsing failed.",
            "Protobuf parsing failed",
        ),
        (
            f"{FAIL} : {CORE}/graph/model.cc:256 onnxruntime::Model::Model(onnx::ModelProto&&, "
            "const onnxruntime::PathString&, const onnxruntime::ModelOptions&) "
            "Unsupported model IR version: 99, max supported IR version: 13\n",
            "Unsupported model IR version: 99, max supported IR version: 13",
        ),
        (
            f"{FAIL} : {CORE}/graph/model_load_utils.h:46 void onnxruntime::model_load_utils::ValidateOpset("
            "const std::unordered_map<std::__cxx11::basic_string<char>, int>&, bool, int) "
            "Current official support for domain ai.onnx is till opset 26.\n",
            "Current official support for domain ai.onnx is till opset 26",
        ),
        (
            f"{FAIL} : Exception during initialization: {CORE}/optimizer/initializer.cc:51 "
            "onnxruntime::Initializer::Initializer(const onnx::TensorProto&, const std::filesystem::path&) "
            f"{FAIL} : tensorprotoutils.cc:1876 GetExtDataFromTensorProto External initializer: w offset: 0 "
            "size to read: 16 given file_length: 8 are out of bounds or can not be read in full.\n",
            "External initializer: w offset: 0 size to read: 16 given file_length: 8 "
            "are out of bounds or can not be read in full",
        ),
        (
            f"{FAIL} : Node () Op (MatMul) [ShapeInferenceError] Incompatible dimensions",
            "Node () Op (MatMul) [ShapeInferenceError] Incompatible dimensions",
        ),
        ("Required inputs (['x']) are missing.", "Required inputs (['x']) are missing"),
    ],
)
def test_the_useful_part(message: str, expected: str) -> None:
    assert useful_part(message) == expected


def test_the_first_logged_error_names_the_missing_library() -> None:
    log = (
        "\x1b[0;93m2026-01-01 [W:onnxruntime:Default, pybind.cc:1295 Create] Failed to create it.\x1b[m\n"
        "\x1b[1;31m2026-01-01 12:02:19.35 [E:onnxruntime:Default, provider_bridge_ort.cc:2458 operator()] "
        f"{CORE}/session/provider_bridge_ort.cc:2043 onnxruntime::Provider& onnxruntime::Library::Get() "
        f"{FAIL} : Failed to load library /some/where/libonnxruntime_providers_cuda.so with error: "
        "libcublasLt.so.13: cannot open shared object file: No such file or directory\n\x1b[m\n"
    )
    assert first_logged_error(log) == (
        "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    )


def test_without_a_logged_error_the_last_line_counts() -> None:
    assert first_logged_error("Traceback\n  File\nRuntimeError: no memory\n") == "RuntimeError: no memory"
    assert first_logged_error("") == ""
