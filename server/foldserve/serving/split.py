"""Requests of more rows than a batch may have: split into parts that wait, run and fail as one."""

import threading
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from foldserve.serving.line import Execution, Waiting


def split(request: Waiting, most_rows: int) -> list[Waiting]:
    """Parts of at most ``most_rows`` rows each, whose inputs are views of the request's.

    They may run side by side and share batches with others; the request is answered when the last one is.
    Once one of them fails the request has failed, and those that still wait are cancelled.
    """
    starts = range(0, request.rows, most_rows)
    whole = _Whole(request, len(starts))
    return [
        replace(
            request,
            inputs={name: array[start : start + most_rows] for name, array in request.inputs.items()},
            rows=min(most_rows, request.rows - start),
            cancelled=whole.cancelled,
            done=partial(whole.part_done, index),
        )
        for index, start in enumerate(starts)
    ]


class _Whole:
    """A request whose parts come back one by one, from any thread."""

    def __init__(self, request: Waiting, parts: int) -> None:
        self._request = request
        self._executions: list[Execution | None] = [None] * parts
        self._failed = False
        self._lock = threading.Lock()

    def cancelled(self) -> bool:
        return self._failed or self._request.cancelled()

    def part_done(self, index: int, outcome: Execution | Exception) -> None:
        with self._lock:
            if self._failed:
                return
            if isinstance(outcome, Execution):
                self._executions[index] = outcome
            else:
                self._failed = True
            parts = [execution for execution in self._executions if execution is not None]
        if not isinstance(outcome, Execution):
            self._request.done(outcome)
        elif len(parts) == len(self._executions):
            self._request.done(_joined(parts))


def _joined(parts: Sequence[Execution]) -> Execution:
    """The request waited until its first part ran; what came after counts as computing."""
    queue_s = min(part.queue_s for part in parts)
    return Execution(
        [np.concatenate(pieces) for pieces in zip(*(part.outputs for part in parts), strict=True)],
        queue_s=queue_s,
        compute_infer_s=max(part.queue_s + part.compute_infer_s for part in parts) - queue_s,
        runs=tuple(rows for part in parts for rows in part.runs),
    )
