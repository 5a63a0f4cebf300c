"""The inputs that a proof rests on: the model's own samples, or seeded synthetic ones.

Synthetic probes respect shape, dtype and value range: floats are drawn from N(0, 1) (a normalised image) and
from U(0, 1) (a scaled one) in turn, 8-bit integers over their whole range, wider ones from {0, 1}, which is
valid as an index, a mask and a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from foldserve.errors import ExecutionFailed, InvalidModel
from foldserve.parity.measures import is_float
from foldserve.parity.report import ProbeSource
from foldserve.parity.samples import in_batches, read_samples
from foldserve.runtime.session import Array, Session
from foldserve.runtime.tensors import TensorSpec

SEED = 20250
LARGEST_BATCH = 8
LARGEST_PROBE_ELEMENTS = 400_000
"""Two images of 224 × 224 × 3: the unoptimised original takes its time for each."""


SPATIAL_SIZES = (64, 96, 224, 32, 28, 128, 256, 299, 512)
"""Sizes that are tried for a dynamic dimension; the first two that the model takes are used."""

DYNAMIC_SIZES_WANTED = 2

Probe = Mapping[str, Array]
"""One set of inputs, by name."""


@dataclass(frozen=True)
class ProbeSet:
    """Several probes of one origin."""

    source: ProbeSource
    probes: tuple[Probe, ...]
    seed: int | None = None


def synthetic_probes(session: Session, *, seed: int = SEED, largest_batch: int = LARGEST_BATCH) -> ProbeSet:
    """Probes made up from ``session``'s inputs: batch 1 and ``largest_batch``, two spatial sizes if dynamic.

    Of large inputs the second batch has fewer rows, two at least; its first one is the row that is alone. A
    fixed batch is taken as it is. Which spatial sizes a dynamic model takes is found out by running it.
    """
    generator = np.random.default_rng(seed)
    probes: list[Probe] = []
    for size in _accepted_sizes(session, generator):
        single = _draw(session.inputs, 1, size, generator, normal=True)
        rows = 1
        if _has_dynamic_batch(session.inputs):
            elements = sum(array.size for array in single.values())
            rows = min(largest_batch, max(2, LARGEST_PROBE_ELEMENTS // max(elements, 1)))
        several = _draw(session.inputs, rows, size, generator, normal=False)
        if rows > 1:
            # The same row alone and among others: what one of them answers tells of the other.
            for spec in session.inputs:
                if spec.shape and not isinstance(spec.shape[0], int):
                    several[spec.name][:1] = single[spec.name]
        probes += [single, several]
    return ProbeSet(ProbeSource.SYNTHETIC, tuple(probes), seed)


def load_samples(path: Path, inputs: Sequence[TensorSpec], *, largest_batch: int = LARGEST_BATCH) -> ProbeSet:
    """Probes from an ``.npz`` file: arrays named like the model's inputs, samples along the first axis.

    The first sample alone, then all of them in batches of ``largest_batch`` (or of the model's fixed batch).
    Raises :class:`InvalidModel` naming the file and the array at fault.
    """
    samples = read_samples(path, inputs)
    batches = tuple(in_batches(samples, inputs, largest_batch))
    if not batches:
        raise InvalidModel(f"{path}: too few samples for one batch of the model")
    single = next(in_batches(samples, inputs, 1))
    alone = () if _shapes(single) == _shapes(batches[0]) else (single,)
    return ProbeSet(ProbeSource.SAMPLES, (*alone, *batches))


def _shapes(probe: Probe) -> list[tuple[int, ...]]:
    return [array.shape for array in probe.values()]


def _has_dynamic_batch(inputs: Sequence[TensorSpec]) -> bool:
    return any(spec.shape is not None and not isinstance(spec.shape[0], int) for spec in inputs)


def _accepted_sizes(session: Session, generator: np.random.Generator) -> Sequence[int]:
    """The spatial sizes to probe with: one, of no meaning, where no dimension but the batch is dynamic."""
    if all(isinstance(dim, int) for spec in session.inputs for dim in (spec.shape or ())[1:]):
        return SPATIAL_SIZES[:1]
    accepted: list[int] = []
    for size in SPATIAL_SIZES:
        try:
            session.run(_draw(session.inputs, 1, size, generator, normal=True))
        except ExecutionFailed:
            continue
        accepted.append(size)
        if len(accepted) == DYNAMIC_SIZES_WANTED:
            break
    # Where none is accepted the proof will tell why the first one was not.
    return accepted or SPATIAL_SIZES[:1]


def _draw(
    inputs: Sequence[TensorSpec], batch: int, size: int, generator: np.random.Generator, *, normal: bool
) -> dict[str, Array]:
    batch_names = {spec.shape[0] for spec in inputs if spec.shape and isinstance(spec.shape[0], str)}

    def length(axis: int, dim: int | str | None) -> int:
        if isinstance(dim, int):
            return dim
        return batch if axis == 0 or dim in batch_names else size

    return {
        spec.name: _values(
            spec.dtype, tuple(length(*item) for item in enumerate(spec.shape or ())), generator, normal=normal
        )
        for spec in inputs
    }


def _values(
    dtype: np.dtype[np.generic], shape: tuple[int, ...], generator: np.random.Generator, *, normal: bool
) -> Array:
    if is_float(dtype):
        drawn = generator.standard_normal(shape) if normal else generator.random(shape)
        return np.asarray(drawn).astype(dtype)
    if dtype == np.object_:
        return np.full(shape, b"probe", np.object_)
    if dtype.itemsize == 1 and dtype != np.bool_:
        low, high = (-128, 128) if dtype == np.int8 else (0, 256)
        return np.asarray(generator.integers(low, high, shape)).astype(dtype)
    return np.asarray(generator.integers(0, 2, shape)).astype(dtype)
