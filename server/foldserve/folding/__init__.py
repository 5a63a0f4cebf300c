"""Folding: an ONNX model in, the same function with fewer operators out, and a report of what happened.

    engine      the whole of it in one call
    prepare     a copy to work on: functions inlined, shapes inferred
    sites       which affines are there
    planner     how one of them can vanish, as a plan; it asks the tables of steps, which are filled by
                linear, normalization, quantized, recurrent     operators that absorb an affine
                activation, arithmetic, movement,
                pooling, selection                              operators that pass it on
    merge       which parallel branches become one convolution
    apply       change the graph as a plan says
    biases      strip those that do nothing
    report      what happened, as data

    affine, shapes                  the algebra, and where its arrays go when a value is reshaped
    constants, evaluate             constant operands: found, read in float64, rounded once

Knows onnx-ir and numpy, and no other part of foldserve than its errors.
"""

from typing import TYPE_CHECKING, Any

from foldserve.folding.report import FoldReport

if TYPE_CHECKING:
    from foldserve.folding.engine import FoldResult, fold

__all__ = ["FoldReport", "FoldResult", "fold"]


def __getattr__(name: str) -> Any:
    """The engine when it is asked for: its imports take half a second, and readers of reports do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from foldserve.folding import engine  # noqa: PLC0415  # see above

    return getattr(engine, name)
