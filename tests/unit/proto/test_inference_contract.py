"""The compiled inference descriptors against the published contract, row by row."""

import csv
from collections.abc import Iterator
from pathlib import Path

from foldserve_proto import grpc_service_pb2, model_config_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

TABLES = Path(__file__).parent / "tables"
OPEN_INFERENCE_PROTOCOL = [
    ("inference.ModelMetadataResponse", "properties", "6", "map<string, string>", "", "")
]
SCALARS = {
    getattr(FieldDescriptor, name): name.removeprefix("TYPE_").lower()
    for name in dir(FieldDescriptor)
    if name.startswith("TYPE_")
}

Row = tuple[str, ...]


def table(name: str) -> list[Row]:
    with (TABLES / name).open(newline="") as file:
        _, *rows = csv.reader(file, delimiter="\t")
    return [tuple(row) for row in rows]


def test_messages_of_the_service_are_the_published_ones() -> None:
    published = table("grpc_service_fields.tsv") + OPEN_INFERENCE_PROTOCOL
    assert sorted(rows_of_file(grpc_service_pb2)) == sorted(published)


def test_messages_of_the_model_configuration_are_the_published_ones() -> None:
    assert sorted(rows_of_file(model_config_pb2)) == sorted(table("model_config_fields.tsv"))


def test_rpcs_are_the_published_ones() -> None:
    service = grpc_service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]
    rpcs = [
        (
            method.name,
            method.input_type.full_name,
            method.output_type.full_name,
            str(method.client_streaming),
            str(method.server_streaming),
        )
        for method in service.methods
    ]
    assert sorted(rpcs) == sorted(table("rpcs.tsv"))


def rows_of_file(module: object) -> Iterator[Row]:
    file = module.DESCRIPTOR  # type: ignore[attr-defined]  # every generated module has it
    for message in file.message_types_by_name.values():
        yield from rows_of_message(message)
    for enum in file.enum_types_by_name.values():
        yield from rows_of_enum(enum)


def rows_of_message(message: Descriptor) -> Iterator[Row]:
    for nested in message.nested_types:
        if not nested.GetOptions().map_entry:
            yield from rows_of_message(nested)
    for enum in message.enum_types:
        yield from rows_of_enum(enum)
    if not message.fields:
        yield message.full_name, "(no fields)", "", "", "", ""
    for field in message.fields:
        entry = map_entry(field)
        yield (
            message.full_name,
            field.name,
            str(field.number),
            map_type(entry) if entry else type_name(field),
            "repeated" if field.is_repeated and not entry else "",
            field.containing_oneof.name if field.containing_oneof else "",
        )


def rows_of_enum(enum: EnumDescriptor) -> Iterator[Row]:
    for value in enum.values:
        yield enum.full_name, value.name, str(value.number), "enum value", "", ""


def map_entry(field: FieldDescriptor) -> Descriptor | None:
    """The entry message of a map field."""
    message = field.message_type
    return message if message is not None and message.GetOptions().map_entry else None


def map_type(entry: Descriptor) -> str:
    key, value = entry.fields
    return f"map<{type_name(key)}, {type_name(value)}>"


def type_name(field: FieldDescriptor) -> str:
    named = field.message_type or field.enum_type
    return named.full_name if named else SCALARS[field.type]
