"""Recurrent layers absorb an affine on their input sequence X [length, batch, features].

    W  [directions, gates·hidden, features]      W′ = W·s along the features
    B  [directions, 2·gates·hidden]              the first half, the input's bias, gains Σ W·t

A scale or shift on their outputs stays: it would have to pass the gates.
"""

import numpy as np

from foldserve.folding.constants import Constant
from foldserve.folding.linear import along
from foldserve.folding.steps import Answer, Front, Step, carry_down


@carry_down("LSTM", "GRU", "RNN")
def recurrent_down(front: Front) -> Answer:
    """W′ = W·s, and Σ W·t joins the bias of the input."""
    weight, bias = front.constant(1), front.constant(3)
    if weight is None or front.index != 0 or front.is_computed(3):
        return front.runtime_weight()
    if (vectors := front.affine.vectors(2, weight.shape[2])) is None:
        return front.not_per_channel()
    scale, shift = vectors
    scaled = weight.scaled(along(scale, 2, weight))
    if not front.affine.has_shift:
        return Step(constants={1: scaled})
    added = weight.exact() @ shift
    old = bias.exact() if bias is not None else np.zeros((added.shape[0], 2 * added.shape[1]))
    joined = old + np.pad(added, ((0, 0), (0, added.shape[1])))
    return Step(constants={1: scaled, 3: Constant.of(joined, weight.dtype)})
