"""Cutting a batch into the parts that a server takes, and joining the answers.

Most servers refuse a batch beyond the model's ``max_batch_size``; for them a part has so many rows. A
foldserve server cuts by itself: parts only keep its messages small enough to be computed while the next ones
travel, so that rows which are small share one message. With 32 rows a part, 4096 digits took twice as long as
in one message.
"""

from collections.abc import Iterator, Sequence

import numpy as np

from foldserve_client.inference import InferResult, Signature
from foldserve_client.tensors import Array

PART_BYTES = 1 << 20
"""What a part has at most, where that is not less than ``max_batch_size`` rows."""

SPLITS = "foldserve."
"""Metadata properties of servers that take larger batches than the model does begin so."""


def rows_of(signature: Signature, arrays: Sequence[Array]) -> int:
    """How many rows a request has; 0 where its inputs are no batch."""
    if not signature.is_batch:
        return 0
    if len(arrays) == 1:
        return len(arrays[0])
    sizes = {len(array) for array in arrays}
    return sizes.pop() if len(sizes) == 1 else 0


def rows_of_a_part(signature: Signature, arrays: Sequence[Array], max_batch_size: int) -> int:
    """How many rows of these inputs, two or more, go into one request; all of them where 0 is the limit."""
    rows = len(arrays[0])
    if max_batch_size == 0:
        return rows
    if not any(name.startswith(SPLITS) for name in signature.properties):
        return max_batch_size
    row_bytes = max(1, sum(array.nbytes for array in arrays) // rows)
    return max(1, PART_BYTES // (row_bytes * max_batch_size)) * max_batch_size


def parts(arrays: Sequence[Array], rows: int) -> Iterator[list[Array]]:
    """Views of ``rows`` rows each, the last one of what is left."""
    for start in range(0, len(arrays[0]), rows):
        yield [array[start : start + rows] for array in arrays]


def joined(results: Sequence[InferResult]) -> InferResult:
    """The answer to the whole batch; its version and id are those of the first part."""
    first = results[0]
    outputs = {name: np.concatenate([result[name] for result in results]) for name in first}
    return first.with_outputs(outputs)
