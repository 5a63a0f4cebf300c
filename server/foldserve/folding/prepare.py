"""The copy of a model that folding works on: functions inlined, shapes inferred."""

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass, ShapeInferencePass


def prepared(original: ir.Model) -> ir.Model:
    """A copy that shares the tensors of ``original`` and is free to be changed."""
    model = original.clone()
    if model.functions:
        InlinePass()(model)
    declared = {value: value.shape for value in model.graph.inputs if value.shape is not None}
    for value, shape in declared.items():
        # Shape inference can only tell that two unknown dimensions are the same if they have names.
        value.shape = ir.Shape([_named(size, f"{value.name}.{axis}") for axis, size in enumerate(shape)])
    ShapeInferencePass(check_type=False, strict_mode=False)(model)
    for value, shape in declared.items():
        value.shape = shape
    return model


def _named(size: int | ir.SymbolicDim, name: str) -> int | str:
    if isinstance(size, int):
        return size
    return size.value if size.value is not None else name
