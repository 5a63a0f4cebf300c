"""Folding: an ONNX model in, the same function with fewer operators out, and a report of what happened.

    fold(model) ─ prepare    a copy to work on
                  sites      which affines are there
                  plan       how one of them can vanish, asking the tables of
                             linear, normalization, recurrent     operators that absorb
                             activation, arithmetic, movement,
                             pooling, selection                   operators that pass on
                  apply      change the graph
                  biases     strip those that do nothing
                  report     what happened, as data

Knows onnx-ir and numpy, and no other part of foldserve than its errors.
"""

from foldserve.folding.fold import FoldResult, fold
from foldserve.folding.report import FoldReport

__all__ = ["FoldReport", "FoldResult", "fold"]
