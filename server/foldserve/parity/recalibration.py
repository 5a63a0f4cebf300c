"""Recalibration: the statistics that a model's BatchNorms would have from other data, everything else kept.

What is computed is what training mode computes over all the samples as one batch: the mean μ and the variance
σ² (divided by n) of what each BatchNorm reads, where every BatchNorm above it has its new statistics already.

No batch that large has to fit into memory. The graph is cut open ahead of each layer of BatchNorms. What
crosses a cut lies on disk for all the samples: the moments are taken there in float64, and the model between
two cuts, its BatchNorms new, leads from one to the next. So every operator runs once for every sample. For
256 images of 224 × 224 a ResNet-50 needs 1.6 GB of disk.
"""

import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import onnx_ir as ir

from foldserve.errors import InvalidModel, UnsupportedModel
from foldserve.parity.drift import LayerDrift, layer_drift
from foldserve.parity.probes import Probe
from foldserve.parity.sections import computed_values, given_name, section, unoptimised
from foldserve.parity.statistics import Channels, Moments
from foldserve.parity.taps import MEAN, VARIANCE, BatchNorm, batch_norms, constant, inlined, tapped
from foldserve.runtime.session import Array
from foldserve.runtime.tensors import TensorSpec

Samples = Callable[[], Iterable[Probe]]
"""Gives all the samples in batches, from the start each time."""


def recalibrate(model: ir.Model, samples: Samples) -> ir.Model:
    """A copy of ``model`` with the statistics of ``samples``; all other weights are shared.

    BatchNorms that have no constant statistics stay as they are. Raises :class:`UnsupportedModel` where that
    is all of them, :class:`InvalidModel` where one reads NaN or infinity, and what sessions raise.
    """
    copy = inlined(model)
    norms = batch_norms(copy)
    if not norms:
        raise _without_statistics()
    depths = _depths(copy.graph, {norm.node for norm in norms})
    with tempfile.TemporaryDirectory(prefix="foldserve-recalibration-") as folder:
        cut = _Cut(Path(folder), samples())
        for depth in range(1, max(depths.values()) + 1):
            cut.advance(copy, _crossing(copy.graph, depths, depth))
            for norm in norms:
                if depths.get(norm.node.outputs[0]) == depth:
                    _set_statistics(copy.graph, norm, *cut.moments(norm))
    return copy


def drift_of(model: ir.Model, samples: Samples) -> tuple[LayerDrift, ...]:
    """How far ``samples`` are from the statistics of ``model``, layer by layer, all of them as one window.

    Raises as :func:`recalibrate` does.
    """
    with_taps = tapped(model)
    if with_taps is None:
        raise _without_statistics()
    copy, statistics = with_taps
    with unoptimised(copy) as session:
        runs = (Moments.of(statistics, session.run(batch, statistics.outputs)) for batch in samples())
        total = next(runs)
        for moments in runs:
            total += moments
    for layer, sums in zip(statistics.layers, statistics.by_layer(total.z + total.z_squared), strict=True):
        if not np.isfinite(sums).all():
            raise _not_finite(layer)
    return layer_drift(statistics, total)


class _Cut:
    """All values that cross one cut through the model, for all samples, each in files of its own."""

    def __init__(self, folder: Path, samples: Iterable[Probe]) -> None:
        """The first cut is ahead of everything: the samples themselves."""
        self._folder = folder
        self._numbers = count()
        self._values: dict[str, _Stored] = {}
        self._batches = 0
        for arrays in samples:
            self._keep(arrays, self._batches)
            self._batches += 1

    def advance(self, model: ir.Model, names: Collection[str]) -> None:
        """Run ``model`` from this cut on to the one that the values ``names`` cross."""
        missing = [name for name in names if name not in self._values]
        if missing:
            self._run(model, missing)
        for name in self._values.keys() - set(names):
            for batch in range(self._batches):
                self._file(name, batch).unlink()
            del self._values[name]

    def moments(self, norm: BatchNorm) -> tuple[Channels, Channels]:
        """Mean and variance of each channel of what ``norm`` reads; it must cross the cut."""
        x = _name_of(norm.node.inputs[0])
        seen, total, squares = 0, np.zeros_like(norm.mean), np.zeros_like(norm.mean)
        for batch in range(self._batches):
            array = self._read(x, batch)
            values = array.astype(np.float64).reshape(len(array), norm.mean.size, -1)
            values -= norm.mean[:, np.newaxis]  # or the variance of a channel far from zero would cancel
            seen += values.shape[0] * values.shape[2]
            with np.errstate(over="ignore", invalid="ignore"):
                total += values.sum(axis=(0, 2))
                squares += np.einsum("ncs,ncs->c", values, values)
        if not np.isfinite(squares).all():
            raise _not_finite(norm.name)
        shift = total / seen
        return norm.mean + shift, np.maximum(squares / seen - np.square(shift), 0)

    def _run(self, model: ir.Model, missing: Sequence[str]) -> None:
        inside = self._values.keys() & computed_values(model).keys()
        part = section(
            model, missing, {name: TensorSpec(name, self._values[name].dtype, None) for name in inside}
        )
        read = {value.name for value in part.graph.inputs}
        known = {given_name(name) if name in inside else name: name for name in self._values}
        feed = {given: name for given, name in known.items() if given in read}
        with unoptimised(part) as session:
            for batch in range(self._batches):
                arrays = {given: self._read(name, batch) for given, name in feed.items()}
                self._keep(dict(zip(missing, session.run(arrays, missing), strict=True)), batch)

    def _keep(self, arrays: Mapping[str, Array], batch: int) -> None:
        for name, array in arrays.items():
            if name not in self._values:
                self._values[name] = _Stored(next(self._numbers), array.dtype)
            np.save(self._file(name, batch), array, allow_pickle=False)

    def _read(self, name: str, batch: int) -> Array:
        # The format keeps the bytes of a bfloat16 array but not its name.
        array: Array = np.load(self._file(name, batch)).view(self._values[name].dtype)
        return array

    def _file(self, name: str, batch: int) -> Path:
        return self._folder / f"{self._values[name].number}-{batch}.npy"


@dataclass(frozen=True)
class _Stored:
    """A value on disk."""

    number: int
    """What its files' names begin with, since its own name may not be one of a file."""

    dtype: np.dtype[np.generic]


def _depths(graph: ir.Graph, norms: Collection[ir.Node]) -> dict[ir.Value, int]:
    """How many of ``norms`` lie on the longest path to each value; none for those that no input reaches."""
    depths = dict.fromkeys(graph.inputs, 0)
    for node in graph:
        above = [depths[value] for value in _read_by(node) if value in depths]
        if above:
            depths |= dict.fromkeys(node.outputs, max(above) + (node in norms))
    return depths


def _crossing(graph: ir.Graph, depths: Mapping[ir.Value, int], depth: int) -> list[str]:
    """The values above the layer ``depth`` that it, or something below it, reads."""
    crossing: dict[str, None] = {}
    for node in graph:
        if depths.get(node.outputs[0], 0) >= depth:
            read = (value for value in _read_by(node) if depths.get(value, depth) < depth)
            crossing |= dict.fromkeys(map(_name_of, read))
    return list(crossing)


def _read_by(node: ir.Node) -> Iterator[ir.Value]:
    """What a node reads, and what the bodies of an If or a Loop read from outside, or from within."""
    bodies = [
        graph
        for attribute in node.attributes.values()
        if attribute.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)
        for graph in (attribute.value if attribute.type is ir.AttributeType.GRAPHS else [attribute.value])
    ]
    for inner in (node, *(found for body in bodies for found in body.all_nodes())):
        yield from (value for value in inner.inputs if value is not None)


def _set_statistics(graph: ir.Graph, norm: BatchNorm, mean: Channels, variance: Channels) -> None:
    """Give a BatchNorm its own statistics, rounded once to the element types of the old ones."""
    for index, numbers in ((MEAN, mean), (VARIANCE, variance)):
        old = norm.node.inputs[index]
        tensor = constant(old)
        assert old is not None
        assert tensor is not None
        norm.node.replace_input_with(index, None)
        name = _name_of(old)
        if not old.uses() and name in graph.initializers:
            del graph.initializers[name]
        else:
            # The old ones are those of others, too, or no initialiser.
            name = f"{norm.name}.{'mean' if index == MEAN else 'variance'}"
        kind = tensor.dtype.numpy()
        new = ir.val(name, const_value=ir.Tensor(numbers.astype(kind), dtype=tensor.dtype, name=name))
        graph.register_initializer(new)
        norm.node.replace_input_with(index, new)


def _name_of(value: ir.Value | None) -> str:
    assert value is not None
    assert value.name
    return value.name


def _without_statistics() -> UnsupportedModel:
    return UnsupportedModel(
        "the model has no BatchNormalization with statistics of its own: export it with its BatchNorms kept, "
        "or recalibrate the file that it was folded from"
    )


def _not_finite(layer: str) -> InvalidModel:
    return InvalidModel(
        f"BatchNormalization '{layer}' reads NaN or infinite values; look for them in the samples"
    )
