"""Whether a model takes inputs of a shape: OpenVINO finds out when it is told to, but not when it runs.

Where a shape does not fit it answers all the same, with what happens to lie in memory.
"""

import threading
from collections.abc import Mapping
from typing import Any

from foldserve.runtime.openvino_module import openvino

LARGEST_KEPT_BYTES = 4096
"""Larger constants than this are weights; smaller ones may be shapes."""

MOST_REMEMBERED = 4096
"""Combinations of shapes that are known to fit."""

Shapes = Mapping[str, tuple[int, ...]]


class ShapeCheck:
    """Follows shapes through a model; what it found is remembered. Threads may ask at the same time."""

    def __init__(self, model: Any) -> None:
        """``model`` is OpenVINO's, read and not used otherwise; its weights are let go."""
        _without_weights(model)
        self._model = model
        self._asking = threading.Lock()
        self._fitting: set[tuple[tuple[str, tuple[int, ...]], ...]] = set()

    def __call__(self, shapes: Shapes) -> None:
        """Raise RuntimeError, with OpenVINO's words, if the model does not take inputs of these shapes."""
        key = tuple(sorted(shapes.items()))
        if key in self._fitting:
            return
        with self._asking:
            self._model.reshape({name: list(shape) for name, shape in shapes.items()})
            if len(self._fitting) >= MOST_REMEMBERED:
                self._fitting.clear()
            self._fitting.add(key)


def _without_weights(model: Any) -> None:
    """Put an input in the place of each large constant of floats: of the same shape, but without memory."""
    runtime = openvino()
    for constant in model.get_ops():
        if constant.get_type_name() != "Constant" or constant.get_byte_size() <= LARGEST_KEPT_BYTES:
            continue
        element = constant.get_output_element_type(0)
        if element.is_real():
            stand_in = runtime.opset13.parameter(constant.get_output_partial_shape(0), element)
            constant.output(0).replace(stand_in.output(0))
            model.add_parameters([stand_in])
