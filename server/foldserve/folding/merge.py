"""Merging parallel branches of one value into one convolution (RepVGG):

    BN(x) + Conv(x)              BN is a convolution too, with the one tap s_c from channel c to channel c
    Conv(x) + Conv(x)            the taps of the smaller kernel are among those of the larger one

    W′ = W_large + W_small where the taps meet,    b′ = b_large + b_small

Output position p reads the input at stride·p + dilation·k − pad for tap k. Tap k of the small kernel is
therefore tap k + o of the large one, with dilation·o = pad_large − pad_small along every axis. Padding is
zero for both.

The sum and one of the branches vanish; no work is added.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np
import onnx_ir as ir

from foldserve.folding.affine import Array
from foldserve.folding.constants import Constant
from foldserve.folding.evaluate import Constants
from foldserve.folding.report import BATCH_NORMALIZATION
from foldserve.folding.sites import Site, find_site


@dataclass(frozen=True)
class Merge:
    """A sum of two branches and the convolution that can do the work of both."""

    total: ir.Node
    """The Add."""

    large: ir.Node
    """The convolution that stays."""

    small: ir.Node
    """The convolution or BatchNormalization that goes."""

    weight: Constant
    bias: Constant | None


def find_merge(total: ir.Node, constants: Constants) -> Merge | None:
    """How the two branches that the Add ``total`` joins become one; None if they do not."""
    if total.domain != "" or total.op_type != "Add":
        return None
    branches = [_only_reader(value) for value in total.inputs]
    for large, small in permutations(branches):
        if large is None or small is None or large is small or large.op_type != "Conv":
            continue
        if large.inputs[0] is small.inputs[0] and (merge := _merged(total, large, small, constants)):
            return merge
    return None


def _only_reader(value: ir.Value | None) -> ir.Node | None:
    """The node that makes ``value`` for nobody but one reader."""
    if value is None or len(value.uses()) != 1 or value.is_graph_output():
        return None
    node = value.producer()
    return node if node is not None and node.domain == "" else None


def _merged(total: ir.Node, large: ir.Node, small: ir.Node, constants: Constants) -> Merge | None:
    weight = constants.operand(large, 1)
    geometry = None if weight is None else _Geometry.of(large, weight.shape[2:])
    bias = _bias(large, constants)
    if weight is None or geometry is None or bias is None:
        return None
    if small.op_type == BATCH_NORMALIZATION:
        added = _diagonal(find_site(small, constants, constants.opset), weight, geometry)
    elif small.op_type == "Conv":
        added = _taps(small, weight, geometry, constants)
    else:
        added = None
    if added is None:
        return None
    taps, shift = added
    joined = Constant.of(weight.exact() + taps, weight.dtype)
    summed = Constant.of(bias + shift, weight.dtype)
    if not (joined.fits and summed.fits):
        return None
    return Merge(total, large, small, joined, summed if summed.exact().any() else None)


@dataclass(frozen=True)
class _Geometry:
    """Which input positions the taps of a convolution read, along every spatial axis."""

    kernel: tuple[int, ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    group: int

    @classmethod
    def of(cls, node: ir.Node, kernel: Sequence[int]) -> "_Geometry | None":
        """The geometry of a Conv; None where its padding depends on the size of the input."""
        if node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
            return None
        axes = len(kernel)
        pads = tuple(node.attributes.get_ints("pads", (0,) * 2 * axes))
        return cls(
            tuple(kernel),
            pads[:axes],
            pads[axes:],
            tuple(node.attributes.get_ints("strides", (1,) * axes)),
            tuple(node.attributes.get_ints("dilations", (1,) * axes)),
            node.attributes.get_int("group", 1),
        )

    @classmethod
    def pointwise(cls, other: "_Geometry") -> "_Geometry":
        """One tap that reads its own position."""
        axes = len(other.kernel)
        ones, zeros = (1,) * axes, (0,) * axes
        return cls(ones, zeros, zeros, ones, ones, other.group)

    def place_of(self, small: "_Geometry") -> tuple[slice, ...] | None:
        """Where the taps of ``small`` are among these; None where some are not."""
        if self.strides != small.strides or self.group != small.group:
            return None
        place: list[slice] = []
        for axis, (size, own) in enumerate(zip(self.kernel, small.kernel, strict=True)):
            dilation = self.dilations[axis]
            offset, rest = divmod(self.before[axis] - small.before[axis], dilation)
            fits = rest == 0 and 0 <= offset <= size - own
            same_size = self.after[axis] - small.after[axis] == dilation * (size - own - offset)
            if not fits or not same_size or (own > 1 and small.dilations[axis] != dilation):
                return None
            place.append(slice(offset, offset + own))
        return tuple(place)


def _diagonal(site: object, weight: Constant, geometry: _Geometry) -> tuple[Array, Array] | None:
    """A BatchNormalization as taps of the large kernel, and its shift."""
    place = geometry.place_of(_Geometry.pointwise(geometry))
    outputs, per_group = weight.shape[:2]
    if not isinstance(site, Site) or place is None or outputs != per_group * geometry.group:
        return None
    if (vectors := site.affine.vectors(1, outputs)) is None:
        return None
    scale, shift = vectors
    channels = np.arange(outputs)
    taps = np.zeros(weight.shape)
    taps[(channels, channels % per_group, *(part.start for part in place))] = scale
    return taps, shift


def _taps(
    small: ir.Node, weight: Constant, geometry: _Geometry, constants: Constants
) -> tuple[Array, Array] | None:
    """A smaller convolution as taps of the large kernel, and its bias."""
    own = constants.operand(small, 1)
    bias = _bias(small, constants)
    inner = None if own is None else _Geometry.of(small, own.shape[2:])
    if own is None or inner is None or bias is None or own.shape[:2] != weight.shape[:2]:
        return None
    place = geometry.place_of(inner)
    if place is None:
        return None
    taps = np.zeros(weight.shape)
    taps[(slice(None), slice(None), *place)] = own.exact()
    return taps, bias


def _bias(node: ir.Node, constants: Constants) -> Array | None:
    """The bias of a Conv, zero where it has none; None where it is computed."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(1)
    constant = constants.operand(node, 2)
    return None if constant is None or len(constant.shape) != 1 else constant.exact()
