"""Models with values inside made visible, and cut open so that each part can be run by itself."""

import tempfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from foldserve.runtime.cpus import half_of_the_cpus
from foldserve.runtime.in_memory import in_memory
from foldserve.runtime.onnxruntime_session import OnnxRuntimeSession
from foldserve.runtime.session import Session
from foldserve.runtime.tensors import TensorSpec
from foldserve.settings import ProviderChoice


def computed_values(model: ir.Model) -> dict[str, ir.Value]:
    """Everything that a node of the main graph computes, by name, in the graph's order."""
    return {value.name: value for node in model.graph for value in node.outputs if value.name}


def exposed(model: ir.Model, names: Collection[str]) -> ir.Model:
    """A copy with the named values as additional outputs; weights are shared, not copied."""
    copy = model.clone()
    values = computed_values(copy)
    outputs = {value.name for value in copy.graph.outputs}
    copy.graph.outputs.extend(values[name] for name in dict.fromkeys(names) if name not in outputs)
    return copy


def section(model: ir.Model, outputs: Collection[str], given: Mapping[str, TensorSpec]) -> ir.Model:
    """A copy of the part of the model that computes ``outputs`` out of the given values just above them.

    ``given`` tells for a value what stands for it: whoever reads the value reads an input instead, named as
    :func:`given_name` says. A value may be an output and given. Inputs that nobody reads are left out.
    """
    copy = model.clone()
    graph, values = copy.graph, computed_values(copy)
    inputs: dict[str, ir.Value] = {}
    for name, spec in given.items():
        kind = ir.TensorType(ir.DataType.from_numpy(spec.dtype))
        stand_in = inputs.setdefault(spec.name, ir.Value(name=given_name(spec.name), type=kind))
        for node, index in tuple(values[name].uses()):
            node.replace_input_with(index, stand_in)
    graph.outputs[:] = [values[name] for name in dict.fromkeys(outputs)]
    RemoveUnusedNodesPass()(copy)
    graph.inputs[:] = [value for value in (*graph.inputs, *inputs.values()) if value.uses()]
    return copy


def given_name(name: str) -> str:
    """Name of the input of a section that stands for the value ``name``."""
    return f"{name} (given)"


@contextmanager
def saved(model: ir.Model) -> Iterator[Path]:
    """The model in a file, for as long as the block lasts; weights lie beside it, so they may be large."""
    with tempfile.TemporaryDirectory(prefix="foldserve-section-") as folder:
        file = Path(folder, "model.onnx")
        ir.save(model, file, external_data="weights")
        yield file


def open_unoptimised(model: ir.Model) -> Session:
    """The model as it stands, on the CPU, which it leaves half of; raises what OnnxRuntimeSession raises."""
    return OnnxRuntimeSession(
        in_memory(model), provider=ProviderChoice.CPU, optimise=False, intra_op_threads=half_of_the_cpus()
    )


@contextmanager
def unoptimised(model: ir.Model) -> Iterator[Session]:
    """What :func:`open_unoptimised` opens, for as long as the block lasts."""
    with closing(open_unoptimised(model)) as session:
        yield session
