"""Answers of the server as plain values for JSON, for programs."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from foldserve_client.inference import InferResult

LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)

Descriptor = Any
"""A field's descriptor: protobuf has a class of them in Python, and one of its own in C."""


def message(answer: Message) -> dict[str, Any]:
    """The fields of a message by their names, with numbers as numbers.

    Protobuf's own JSON writes 64-bit integers as text, for the sake of JavaScript.
    """
    fields = MessageToDict(
        answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return _with_numbers(fields, answer.DESCRIPTOR.fields_by_name)


def infer_result(result: InferResult) -> dict[str, Any]:
    """Each output's dtype, shape and values."""
    return {
        "model_name": result.model_name,
        "model_version": result.model_version,
        "outputs": {
            name: {"dtype": array.dtype.name, "shape": array.shape, "data": array.tolist()}
            for name, array in result.items()
        },
    }


def _with_numbers(values: dict[str, Any], fields: Mapping[str, Descriptor]) -> dict[str, Any]:
    return {name: _value(value, fields[name]) for name, value in values.items()}


def _value(value: Any, field: Descriptor) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        return {key: _value(one, field.message_type.fields_by_name["value"]) for key, one in value.items()}
    if isinstance(value, list):
        return [_value(one, field) for one in value]
    if field.message_type is not None:
        return _with_numbers(value, field.message_type.fields_by_name)
    return int(value) if field.cpp_type in LONG else value
