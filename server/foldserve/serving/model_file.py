"""Model files: found, translated to ONNX where they are not, read, and written."""

from pathlib import Path
from typing import Any

import onnx_ir as ir

from foldserve.errors import InvalidModel
from foldserve.importing import import_cached, import_program
from foldserve.observability.logging import get_logger
from foldserve.serving.onnx_message import read_message
from foldserve.serving.repository import ModelVersion
from foldserve.settings import ServerSettings

log = get_logger()

FIRST_WITH_CONSTANT_INITIALISERS = 4
"""The first IR version in which an initialiser need not be an input."""


def onnx_file(source: ModelVersion, scratch: Path, settings: ServerSettings) -> Path:
    """The model as an ONNX file: its own, or what its ``.pt2`` program was translated into.

    That is kept in the cache; where the cache cannot be written, it goes to ``scratch``. Raises what
    :func:`~foldserve.importing.import_program` raises.
    """
    file = source.model_file()
    if file.suffix == ".onnx":
        return file
    timeout_s, memory = settings.import_timeout_s, settings.import_memory_bytes
    try:
        imported, _ = import_cached(file, settings.cache_dir, timeout_s=timeout_s, memory_limit_bytes=memory)
    except OSError as error:
        log.warning("the cache cannot be written: importing again at each start", reason=str(error))
        imported = scratch / "imported.onnx"
        import_program(file, imported, timeout_s=timeout_s, memory_limit_bytes=memory)
    return imported


def read_model(file: Path) -> ir.Model:
    """The model in an ONNX file; raises :class:`InvalidModel` for a damaged one.

    External data must lie in the file's own folder: a model is not a way to read other files of this machine.
    """
    try:
        message, weights = read_message(file)
        model = ir.from_proto(message)
        for value in model.graph.initializers.values():
            value.const_value = weights.get(value.name or "", value.const_value)
        ir.external_data.set_base_dir(model.graph, file.parent)
        _leave_message(model)
        _check_names(model)
    except Exception as error:  # protobuf, onnx-ir and numpy each have their own
        raise InvalidModel(f"{file} is not a readable ONNX model: {error}; export it again") from error
    if not model.graph.outputs:  # an empty file is a message, too
        raise InvalidModel(f"{file} holds a graph without outputs, or none at all; export it again")
    folder = file.parent.resolve()
    for graph in model.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor) and not _is_inside(Path(tensor.path), folder):
                raise InvalidModel(
                    f"{file}: the data of '{value.name}' lies in {tensor.location}, outside the model's "
                    f"folder; put it beside the model"
                )
            if isinstance(tensor, ir.ExternalTensor) and not Path(tensor.path).is_file():
                raise InvalidModel(
                    f"{file} keeps the data of '{value.name}' in {tensor.location}, which is not in "
                    f"{folder}; copy it there"
                )
    return model


def make_initialisers_constant(model: ir.Model) -> None:
    """Take initialisers off the graph's inputs, in place.

    Models older than IR version 4 list all of them there, and a caller of the runtime might replace one. A
    request cannot: it may set the inputs that have no initialiser, and no others.
    """
    graph = model.graph
    graph.inputs[:] = [value for value in graph.inputs if value.name not in graph.initializers]
    model.ir_version = max(model.ir_version, FIRST_WITH_CONSTANT_INITIALISERS)


def map_external_data(model: ir.Model) -> None:
    """Map the weights that lie in files: at first use, two threads would get in each other's way."""
    for graph in model.graphs():
        for value in graph.initializers.values():
            if isinstance(value.const_value, ir.ExternalTensor):
                value.const_value.numpy()


def without_files(model: ir.Model) -> ir.Model:
    """A copy whose weights are arrays, mapped where they lie in files: saving would close such files."""
    copy = model.clone()
    for graph in copy.graphs():
        for value in graph.initializers.values():
            tensor = value.const_value
            if isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    return copy


def _is_inside(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder)


def _leave_message(model: ir.Model) -> None:
    """Take every tensor out of the protobuf message that was read, in place.

    Each look at a tensor in a message copies it, and a single one that is left keeps the whole message.
    """
    for graph in model.graphs():
        for value in graph.initializers.values():
            value.const_value = _by_itself(value.const_value)
        for node in graph:
            for name, attribute in tuple(node.attributes.items()):
                if attribute.type is ir.AttributeType.TENSOR:
                    node.attributes[name] = ir.AttrTensor(name, _by_itself(attribute.as_tensor()))


def _check_names(model: ir.Model) -> None:
    """Raise ValueError for a name that is no text, and for one that stands for nothing."""
    for graph in model.graphs():
        for node in graph:
            names = (
                graph.name,
                node.name,
                node.domain,
                node.op_type,
                *(value.name for value in node.outputs),
            )
            for name in names:
                if isinstance(name, bytes):  # protobuf passes on what is not UTF-8
                    raise ValueError(f"the name {name!r} is not UTF-8")
            for value in (*node.inputs, *graph.outputs):
                if value is None or value.producer() or value.is_graph_input() or value.is_initializer():
                    continue
                raise ValueError(f"nothing in the graph computes '{value.name}'")


def _by_itself(tensor: Any) -> Any:
    if not isinstance(tensor, ir.TensorProtoTensor) or tensor.dtype == ir.DataType.STRING:
        return tensor
    return ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name, doc_string=tensor.doc_string)
