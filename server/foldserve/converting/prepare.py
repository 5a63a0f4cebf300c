"""The copy of a model that conversions work on: functions inlined, constants initialisers, types known."""

from pathlib import Path

import onnx_ir as ir
import onnx_ir.passes.common as passes

from foldserve.errors import InvalidModel, UnsupportedModel

OLDEST_OPSET = 7
"""As for folding: older operator sets broadcast by attributes."""

FIRST_WITH_CONSTANT_INITIALISERS = 4
"""The first IR version in which an initialiser need not be an input."""


def prepared(file: Path) -> ir.Model:
    """The model in ``file``, its weights in arrays: the copy can outlive the file and be saved anywhere.

    Functions are inlined, constants are initialisers, no initialiser is an input, every node and value has a
    name of its own, and what can be known of types is. Inputs and outputs keep their names and order.

    Raises:
        InvalidModel: the file is not a readable ONNX model.
        UnsupportedModel: the operator set is older than 7.
    """
    try:
        model = ir.load(file)
        for value in _initialisers(model):
            if isinstance(value.const_value, ir.ExternalTensor):
                tensor = value.const_value
                value.const_value = ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
        _PASSES(model)
        model.ir_version = max(model.ir_version, FIRST_WITH_CONSTANT_INITIALISERS)
    except OSError:
        raise
    except Exception as error:  # protobuf and onnx-ir each have their own
        raise InvalidModel(
            f"{file.name} cannot be read for a conversion: {error}; export it again"
        ) from error
    opset = model.graph.opset_imports.get("", 0)
    if 0 < opset < OLDEST_OPSET:
        raise UnsupportedModel(
            f"{file.name} uses operator set {opset}, and conversions need {OLDEST_OPSET} or newer: convert "
            "it with onnx.version_converter.convert_version"
        )
    return model


def weights_bytes(model: ir.Model) -> int:
    """What the initialisers of ``model`` take."""
    return sum(
        int(value.const_value.nbytes) for value in _initialisers(model) if value.const_value is not None
    )


def _initialisers(model: ir.Model) -> list[ir.Value]:
    return [value for graph in model.graphs() for value in graph.initializers.values()]


_PASSES = ir.passes.Sequential(
    passes.InlinePass(),
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
    passes.RemoveInitializersFromInputsPass(),
    passes.OutputFixPass(),
    passes.TopologicalSortPass(),
    passes.NameFixPass(),
    passes.ShapeInferencePass(check_type=False, strict_mode=False),
)
