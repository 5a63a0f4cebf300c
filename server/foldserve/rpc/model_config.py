"""A servable as Triton's ModelConfig: what its clients and load generators look at before they send."""

from foldserve_proto import model_config_pb2 as pb

from foldserve.rpc import codec
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.datatypes import datatype_name
from foldserve.serving.servable import Servable

PLATFORM = "onnxruntime_onnx"
BACKEND = "onnxruntime"


def model_config(servable: Servable) -> pb.ModelConfig:
    """What a servable runs with; where requests are batched, the dims leave the batch axis out."""
    config = pb.ModelConfig(
        name=servable.name,
        platform=PLATFORM,
        backend=BACKEND,
        max_batch_size=servable.most_rows or 0,
        default_model_filename="model.onnx",
    )
    config.version_policy.latest.num_versions = 1
    kind = pb.ModelInstanceGroup.KIND_GPU if servable.provider == "cuda" else pb.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(name=f"{servable.name}_0", kind=kind, count=1)
    for spec in servable.inputs:
        config.input.add(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, servable))
    for spec in servable.outputs:
        config.output.add(name=spec.name, data_type=_data_type(spec), dims=_dims(spec, servable))
    if servable.most_rows:
        config.dynamic_batching.max_queue_delay_microseconds = 0
    return config


def _dims(spec: TensorSpec, servable: Servable) -> list[int]:
    shape = codec.wire_shape(spec)
    return shape[1:] if servable.most_rows else shape


def _data_type(spec: TensorSpec) -> "pb.DataType.ValueType":
    name = datatype_name(spec.dtype)
    return pb.DataType.Value(f"TYPE_{'STRING' if name == 'BYTES' else name}")
