"""The operators that folding knows: importing this module fills the two tables."""

from foldserve.folding import (
    activation,
    arithmetic,
    linear,
    movement,
    normalization,
    pooling,
    quantized,
    recurrent,
    selection,
)
from foldserve.folding.steps import DOWN, UP

FAMILIES = (activation, arithmetic, linear, movement, normalization, pooling, quantized, recurrent, selection)

__all__ = ["DOWN", "FAMILIES", "UP"]
