"""The descriptor pool of the contract, and message classes for the files in it.

Other packages (tritonclient, kserve, mlserver) carry ``inference.*`` messages too, slightly different ones,
and register them in protobuf's default pool, where the second of two definitions fails to import. Ours stay
in a pool of their own, so the order of imports does not matter. The generated modules hold only serialized
descriptors and are therefore free of the version check between protoc and the protobuf runtime.
"""

from typing import Any

from google.protobuf.descriptor import Descriptor, FileDescriptor
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.reflection import GeneratedProtocolMessageType

POOL = DescriptorPool()
"""Holds every file of the contract that was imported."""


def define(module: dict[str, Any], serialized_file: bytes) -> FileDescriptor:
    """Add a serialized FileDescriptorProto to the pool and its messages and enums to a module's globals."""
    file = POOL.AddSerializedFile(serialized_file)
    for name, enum in file.enum_types_by_name.items():
        module[name] = EnumTypeWrapper(enum)
        module.update({value.name: value.number for value in enum.values})
    for name, message in file.message_types_by_name.items():
        module[name] = _message_class(message, module["__name__"], name)
    return file


def _message_class(message: Descriptor, module: str, qualified_name: str) -> GeneratedProtocolMessageType:
    nested = {
        name: _message_class(inner, module, f"{qualified_name}.{name}")
        for name, inner in message.nested_types_by_name.items()
    }
    attributes = {"DESCRIPTOR": message, "__module__": module, "__qualname__": qualified_name}
    return GeneratedProtocolMessageType(message.name, (Message,), nested | attributes)
