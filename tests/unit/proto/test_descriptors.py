"""Message classes in a pool of their own."""

import pytest
from foldserve_proto import fold_service_pb2, grpc_service_pb2, model_config_pb2
from google.protobuf import descriptor_pool, json_format, text_format


@pytest.mark.parametrize("module", [grpc_service_pb2, model_config_pb2, fold_service_pb2])
def test_nothing_enters_the_default_pool(module: object) -> None:
    default = descriptor_pool.Default()
    file = module.DESCRIPTOR  # type: ignore[attr-defined]  # every generated module has it
    assert file.message_types_by_name
    with pytest.raises(KeyError):
        default.FindFileByName(file.name)
    for message in file.message_types_by_name.values():
        with pytest.raises(KeyError):
            default.FindMessageTypeByName(message.full_name)


def test_nested_messages_are_attributes_and_of_the_class_that_fields_hold() -> None:
    request = grpc_service_pb2.ModelInferRequest(model_name="digits")
    tensor = request.inputs.add(name="images", datatype="FP32", shape=[1, 64])
    assert type(tensor) is grpc_service_pb2.ModelInferRequest.InferInputTensor
    assert type(tensor).__qualname__ == "ModelInferRequest.InferInputTensor"
    assert type(tensor).__module__ == "foldserve_proto.grpc_service_pb2"


def test_messages_of_one_file_hold_those_of_another() -> None:
    response = grpc_service_pb2.ModelConfigResponse()
    response.config.CopyFrom(model_config_pb2.ModelConfig(name="digits"))
    assert type(response.config) is model_config_pb2.ModelConfig
    parsed = grpc_service_pb2.ModelConfigResponse.FromString(response.SerializeToString())
    assert parsed.config.name == "digits"


def test_enums_are_wrappers_with_values_at_module_and_message_level() -> None:
    assert model_config_pb2.DataType.Name(model_config_pb2.TYPE_FP32) == "TYPE_FP32"
    assert model_config_pb2.ModelInstanceGroup.Kind.Value("KIND_CPU") == 2
    assert model_config_pb2.ModelInstanceGroup.KIND_CPU == 2


def test_text_and_json_forms_work_in_the_own_pool() -> None:
    text = 'name: "digits" input { name: "x" data_type: TYPE_FP32 dims: [1, 8, 8] } dynamic_batching { }'
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert list(config.input[0].dims) == [1, 8, 8]
    assert config.WhichOneof("scheduling_choice") == "dynamic_batching"
    assert json_format.ParseDict(json_format.MessageToDict(config), model_config_pb2.ModelConfig()) == config
