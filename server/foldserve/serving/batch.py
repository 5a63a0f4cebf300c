"""Several requests in one run: their inputs put together, its outputs given out."""

from collections.abc import Mapping, Sequence

import numpy as np

from foldserve.runtime.session import Array
from foldserve.serving.split import Part
from foldserve.serving.waiting import Execution, Waiting, rows_in


def joined(batch: Sequence[Waiting]) -> Mapping[str, Array]:
    """The inputs of all requests, each written once into its place; those of a single one as they are."""
    if len(batch) == 1:
        return batch[0].inputs
    return {name: np.concatenate([waiting.inputs[name] for waiting in batch]) for name in batch[0].inputs}


def can_be_cut(batch: Sequence[Waiting], outputs: Sequence[Array]) -> bool:
    """Whether the outputs have the rows of the batch; those of one whole request need not be cut at all."""
    if len(batch) == 1 and not isinstance(batch[0], Part):
        return True
    rows = rows_in(batch)
    return all(array.shape[:1] == (rows,) for array in outputs)


def shares(
    batch: Sequence[Waiting], outputs: list[Array], started: float, finished: float
) -> list[tuple[Waiting, Execution]]:
    """Each request with its rows, as views of the batch's outputs."""
    rows = rows_in(batch)
    runs: tuple[int, ...] = (rows,) if rows else ()
    given: list[tuple[Waiting, Execution]] = []
    start = 0
    for waiting in batch:
        end = start + waiting.rows
        own = outputs if len(batch) == 1 else [array[start:end] for array in outputs]
        given.append((waiting, Execution(own, started - waiting.arrived, finished - started, runs)))
        start, runs = end, ()
    return given


def undivided(line: Sequence[Waiting]) -> list[Waiting]:
    """The same line with whole requests in place of their parts, each once."""
    wholes = (waiting.whole.undivided() if isinstance(waiting, Part) else waiting for waiting in line)
    return [waiting for waiting in wholes if waiting is not None]
