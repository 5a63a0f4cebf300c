"""Requests of more rows than a batch may have: they wait as one, run in parts, and are answered as one."""

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial

import numpy as np

from foldserve.serving.waiting import Execution, Waiting


@dataclass(slots=True, eq=False, kw_only=True)
class Part(Waiting):
    """Some rows of a large request, from ``start`` on: those that run together, or all that still wait."""

    whole: "Whole"
    start: int

    def divided(self, rows: int) -> tuple["Part", "Part"]:
        """The first ``rows`` rows, and the others; the inputs of both are views of the request's."""
        middle, end = self.start + rows, self.start + self.rows
        return self.whole.part(self.start, middle), self.whole.part(middle, end)


class Whole:
    """A large request whose parts come back one by one, from any thread.

    They may run side by side and share batches with others. Once one of them fails the request has failed,
    and those that still wait are cancelled.
    """

    def __init__(self, request: Waiting) -> None:
        self._request = request
        self._executions: dict[int, Execution] = {}
        self._rows_left = request.rows
        self._over = False
        self._lock = threading.Lock()

    def part(self, start: int, end: int) -> Part:
        """The rows from ``start`` to ``end``."""
        request = self._request
        values = {field.name: getattr(request, field.name) for field in fields(Waiting) if field.init}
        return Part(
            **values
            | {
                "inputs": {name: array[start:end] for name, array in request.inputs.items()},
                "rows": end - start,
                "cancelled": self._cancelled,
                "done": partial(self._part_done, start, end - start),
            },
            whole=self,
            start=start,
        )

    def undivided(self) -> Waiting | None:
        """The request itself, whose parts are forgotten; None if it has its answer, or was asked for."""
        with self._lock:
            if self._over:
                return None
            self._over = True
        return self._request

    def _cancelled(self) -> bool:
        return self._over or self._request.cancelled()

    def _part_done(self, start: int, rows: int, outcome: Execution | Exception) -> None:
        with self._lock:
            if self._over:
                return
            if isinstance(outcome, Execution):
                self._executions[start] = outcome
                self._rows_left -= rows
                self._over = self._rows_left == 0
            else:
                self._over = True
            over = self._over
        if over:
            self._request.done(self._joined() if isinstance(outcome, Execution) else outcome)

    def _joined(self) -> Execution | Exception:
        try:
            return _joined([execution for _, execution in sorted(self._executions.items())])
        except Exception as error:  # memory, or parts whose other axes differ
            return error


def waiting_in_parts(request: Waiting, most_rows: int) -> Waiting:
    """What stands in line for ``request``: all of its rows as one part, if they are more than ``most_rows``.

    Empty inputs stay whole: they cost a run nothing, and their sender nothing either, however many rows.
    """
    if request.rows <= most_rows or not request.nbytes:
        return request
    return Whole(request).part(0, request.rows)


def _joined(parts: Sequence[Execution]) -> Execution:
    """The request waited until its first part ran; what came after counts as computing."""
    queue_s = min(part.queue_s for part in parts)
    return Execution(
        [np.concatenate(pieces) for pieces in zip(*(part.outputs for part in parts), strict=True)],
        queue_s=queue_s,
        compute_infer_s=max(part.queue_s + part.compute_infer_s for part in parts) - queue_s,
        runs=tuple(rows for part in parts for rows in part.runs),
    )
