"""Inputs to begin with: one sound one of each kind, and whatever was found since."""

import io
from pathlib import Path

import numpy as np
import onnx_ir as ir
from foldserve_proto import grpc_service_pb2 as pb
from running import EXAMPLE_MODELS
from small_models import batch_norm, chain, convolution

FOUND = Path(__file__).with_name("found")
"""``<target>/<name>``: inputs that once found something."""


def corpus(target: str) -> list[bytes]:
    """The inputs of a target."""
    found = sorted((FOUND / target).glob("*"))
    return [*SOUND[target], *(file.read_bytes() for file in found)]


def _requests() -> list[bytes]:
    raw = pb.ModelInferRequest(model_name="m", model_version="1", id="7")
    typed = pb.ModelInferRequest(model_name="m")
    for name, datatype, content in (
        ("x", "FP32", bytes(16)),
        ("flags", "BOOL", bytes(4)),
        ("texts", "BYTES", b"\1\0\0\0a" * 4),
    ):
        raw.inputs.add(name=name, datatype=datatype, shape=[2, 2])
        raw.raw_input_contents.append(content)
    typed.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend([0.5, 1.5])
    typed.inputs.add(name="flags", datatype="BOOL", shape=[1, 2]).contents.bool_contents.extend([True, False])
    typed.outputs.add(name="y").parameters["classification"].int64_param = 3
    typed.parameters["priority"].int64_param = 1
    typed.parameters["timeout"].string_param = "1000"
    shared = pb.ModelInferRequest(model_name="m")
    tensor = shared.inputs.add(name="x", datatype="FP32", shape=[1, 2])
    tensor.parameters["shared_memory_region"].string_param = "r"
    tensor.parameters["shared_memory_byte_size"].int64_param = 8
    return [one.SerializeToString() for one in (raw, typed, shared)]


def _models() -> list[bytes]:
    small = chain(["n", 3, 8, 8], convolution(3), batch_norm(), ("Relu", [], {}))
    return [ir.to_proto(small).SerializeToString()]


def _archives() -> list[bytes]:
    samples = io.BytesIO()
    np.savez_compressed(samples, x=np.ones((3, 2), np.float32))
    program = (EXAMPLE_MODELS / "digits_pt2" / "1" / "model.pt2").read_bytes()
    return [samples.getvalue(), program]


YAML = b"""max_batch_size: 8
versions: {latest: 2}
parity: {relative_l2: 1.0e-4}
batching: {max_queue_delay_us: 100, priority_levels: 2, preferred_batch_sizes: [4, 8]}
labels: {y: labels.txt}
inputs: [{name: x, datatype: FP32, shape: [-1, 2]}]
"""
PBTXT = b"""name: "m" platform: "onnxruntime_onnx" max_batch_size: 8
input [{name: "x" data_type: TYPE_FP32 dims: [2]}]
output [{name: "y" data_type: TYPE_FP32 dims: [2] label_filename: "labels.txt"}]
instance_group [{count: 2 kind: KIND_CPU}]
dynamic_batching {preferred_batch_size: [4] max_queue_delay_microseconds: 100}
parameters {key: "intra_op_thread_count" value {string_value: "2"}}
"""
JSON = b'{"max_batch_size": 8, "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]}'

SOUND = {
    "request": _requests(),
    "model": _models(),
    "configuration": [b"\0" + YAML, b"\1" + PBTXT, b"\2" + JSON],
    "archive": _archives(),
    "upload": [b"1/model.onnx\nlabels.txt", b"1/model.onnx\n../x"],
}
