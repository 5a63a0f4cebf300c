from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from foldserve.errors import ConfigurationError, FoldserveError, InvalidRequest, UnsupportedModel
from foldserve.serving.triton_config import parse_json, parse_text, values_of
from foldserve.serving.triton_fields import FIELDS, Fate, check_fields
from foldserve.settings import ModelSettings
from foldserve_proto import model_config_pb2 as pb
from google.protobuf import text_format
from google.protobuf.descriptor import Descriptor

CLASSIFIER = """
name: "resnet"
platform: "onnxruntime_onnx"
max_batch_size: 16
input [ { name: "images" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 224, -1 ] } ]
output [ { name: "logits" data_type: TYPE_FP16 dims: [ 1000 ] label_filename: "labels.txt" } ]
version_policy: { specific { versions: [ 1, 3 ] } }
instance_group [ { count: 2 kind: KIND_CPU }, { count: 1 kind: KIND_CPU } ]
default_model_filename: "resnet.onnx"
dynamic_batching {
  preferred_batch_size: [ 4, 8 ]
  max_queue_delay_microseconds: 100
  priority_levels: 2
  default_priority_level: 1
  default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 max_queue_size: 7 }
  priority_queue_policy { key: 2 value { allow_timeout_override: true } }
}
parameters { key: "intra_op_thread_count" value { string_value: "4" } }
"""


def _config(text: str) -> pb.ModelConfig:
    return text_format.Parse(text, pb.ModelConfig())


def _values(text: str) -> dict[str, Any]:
    return values_of(_config(text), "resnet")


def _undecided(message: Descriptor, prefix: str = "") -> Iterator[str]:
    for field in message.fields:
        path = prefix + field.name
        if path in FIELDS or f"{path}.*" in FIELDS:
            continue
        kind = field.message_type
        if kind is not None and not kind.GetOptions().map_entry:
            yield from _undecided(kind, f"{path}.")
        else:
            yield path


def _exists(path: str) -> bool:
    message: Descriptor | None = pb.ModelConfig.DESCRIPTOR
    for name in path.split("."):
        if message is None or name not in message.fields_by_name:
            return path.startswith("parameters.")
        message = message.fields_by_name[name].message_type
    return True


def test_every_field_of_the_contract_has_one_decision() -> None:
    assert list(_undecided(pb.ModelConfig.DESCRIPTOR)) == []
    assert [path for path in FIELDS if not _exists(path)] == []
    assert [path for path in FIELDS if any(path.startswith(f"{other}.") for other in FIELDS)] == []


def test_a_whole_configuration_becomes_settings() -> None:
    assert ModelSettings.model_validate(_values(CLASSIFIER)) == ModelSettings.model_validate(
        {
            "max_batch_size": 16,
            "versions": [1, 3],
            "file": "resnet.onnx",
            "provider": "cpu",
            "instances": 3,
            "intra_op_threads": 4,
            "labels": {"logits": "labels.txt"},
            "inputs": [{"name": "images", "datatype": "FP32", "shape": [-1, 3, 224, -1]}],
            "outputs": [{"name": "logits", "datatype": "FP16", "shape": [-1, 1000]}],
            "batching": {
                "preferred_batch_sizes": [4, 8],
                "max_queue_delay_us": 100,
                "priority_levels": 2,
                "default_priority_level": 1,
                "queue_policy": {
                    "timeout_action": "delay",
                    "default_timeout_us": 5,
                    "allow_timeout_override": False,
                    "max_queue_size": 7,
                },
                "priority_queue_policies": {2: {"allow_timeout_override": True}},
            },
        }
    )


def test_every_honoured_field_of_it_is_told_apart_from_those_without_effect() -> None:
    assert list(check_fields(_config(CLASSIFIER))) == ["input.format"]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("", {}),
        ("max_batch_size: 4", {"max_batch_size": 4}),
        ("version_policy { all {} }", {"versions": "all"}),
        ("version_policy { latest {} }", {"versions": {"latest": 1}}),
        ("version_policy { latest { num_versions: 3 } }", {"versions": {"latest": 3}}),
        ("instance_group { kind: KIND_GPU }", {"provider": "cuda"}),
        ("instance_group { kind: KIND_AUTO count: 2 }", {"instances": 2}),
        ('output { name: "y" label_filename: "l" }', {"outputs": [{"name": "y"}], "labels": {"y": "l"}}),
        (
            'input { name: "x" data_type: TYPE_STRING dims: [ 2, 3 ] reshape { shape: [ 2, 3 ] } }',
            {"max_batch_size": 0, "inputs": [{"name": "x", "datatype": "BYTES", "shape": [2, 3]}]},
        ),
        (
            'output { name: "y" dims: [ 10 ] reshape { shape: [ 1, 10, 1, 1 ] } }',
            {"max_batch_size": 0, "outputs": [{"name": "y", "shape": [10], "reshape": [1, 10, 1, 1]}]},
        ),
        (
            'max_batch_size: 2 input { name: "x" dims: [ 1 ] reshape { shape: [ ] } }',
            {"max_batch_size": 2, "inputs": [{"name": "x", "shape": [-1, 1], "reshape": [-1]}]},
        ),
        ('parameters { key: "intra_op_thread_count" value { string_value: "0" } }', {}),
        ('parameters { key: "execution_mode" value { string_value: "1" } }', {}),
    ],
)
def test_what_is_left_out_is_left_to_others(text: str, values: dict[str, Any]) -> None:
    assert _values(text) == values


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ('name: "vgg"', ConfigurationError, "name is 'vgg', but the model's folder is 'resnet'"),
        ('platform: "tensorflow_graphdef"', UnsupportedModel, "platform is 'tensorflow_graphdef'.*to ONNX"),
        ('backend: "python"', UnsupportedModel, "backend is 'python'"),
        ("version_policy { specific {} }", ConfigurationError, "names no version"),
        ("instance_group { kind: KIND_MODEL }", ConfigurationError, "KIND_MODEL"),
        (
            "instance_group [ { kind: KIND_CPU }, { kind: KIND_GPU } ]",
            ConfigurationError,
            "on GPU and on CPU",
        ),
        (
            'parameters { key: "intra_op_thread_count" value { string_value: "many" } }',
            ConfigurationError,
            "is 'many'; give a number",
        ),
    ],
)
def test_what_cannot_be_honoured_is_refused(text: str, error: type[FoldserveError], says: str) -> None:
    with pytest.raises(error, match=says):
        _values(text)


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("sequence_batching { }", "sequence_batching"),
        ("ensemble_scheduling { }", "ensemble_scheduling"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled"),
        ('input { name: "x" allow_ragged_batch: true }', "input.allow_ragged_batch"),
        ('input { name: "x" } input { name: "y" optional: true }', "input.optional"),
        ('output { name: "x" is_shape_tensor: true }', "output.is_shape_tensor"),
        ('batch_input { target_name: "x" }', "batch_input"),
        ('model_operations { op_library_filename: "ops.so" }', "model_operations"),
        ("instance_group { passive: true }", "instance_group.passive"),
    ],
)
def test_a_refused_field_is_named_with_what_to_do(text: str, field: str) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        check_fields(_config(text))
    assert str(refusal.value) == f"{field} is not supported: {FIELDS[field].note}"


def test_refused_fields_that_say_no_are_not_given() -> None:
    assert check_fields(_config("model_transaction_policy { decoupled: false }")) == {}


def test_fields_without_effect_are_named_and_unknown_parameters_by_their_keys() -> None:
    given = check_fields(
        _config(
            'metric_tags { key: "team" value: "vision" } optimization { graph { level: 1 } }'
            'parameters { key: "execution_mode" value { string_value: "1" } }'
            'parameters { key: "intra_op_thread_count" value { string_value: "1" } }'
            'instance_group [ { gpus: [ 0 ] }, { name: "second" gpus: [ 1 ] } ] response_cache { }'
        )
    )
    assert sorted(given) == [
        "instance_group.gpus",
        "instance_group.name",
        "metric_tags",
        "optimization.graph",
        "parameters.execution_mode",
        "response_cache",
    ]
    assert {decision.fate for decision in given.values()} == {Fate.NO_EFFECT}


def test_text_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_text('name: "resnet"\nmax_batchsize: 8\n')
    with pytest.raises(ConfigurationError) as refusal:
        parse_text(file)
    assert str(refusal.value) == (
        f"{file}, line and column 2:1: 'max_batchsize' is not a field of Triton's ModelConfig; "
        f"did you mean 'max_batch_size'?"
    )
    file.write_text('input { nam: "x" }')
    with pytest.raises(
        ConfigurationError, match=r"1:9: 'nam' is not a field of Triton's ModelInput.*'name'\?"
    ):
        parse_text(file)
    file.write_text("max_batch_size: many")
    with pytest.raises(ConfigurationError, match=r"Couldn't parse integer: many; it must be Triton's"):
        parse_text(file)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "config.pbtxt"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigurationError, match="cannot be read"):
        parse_text(file)


def test_json_is_read_as_triton_writes_it() -> None:
    config = parse_json('{"max_batch_size": 4, "instance_group": [{"kind": "KIND_CPU"}]}')
    assert values_of(config, "resnet") == {"max_batch_size": 4, "provider": "cpu"}
    assert parse_json('{"maxBatchSize": 4}').max_batch_size == 4


@pytest.mark.parametrize(
    "text", ["{", "[]", "null", "[" * 100_000, '{"max_batchsize": 4}', '{"max_batch_size": "many"}']
)
def test_json_that_is_no_configuration_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="not Triton's ModelConfig in JSON"):
        parse_json(text)
