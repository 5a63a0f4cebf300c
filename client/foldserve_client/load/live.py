"""What is happening while load runs: a bar on a terminal, a line per second elsewhere; both on stderr."""

import math
from collections import Counter, deque
from types import TracebackType
from typing import Protocol, Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn

from foldserve_client.load.levels import Step, in_words
from foldserve_client.load.recording import OK, Outcomes, Values
from foldserve_client.load.report import code_name

RECENT_S = 2.0
"""What rate and percentiles are shown of."""

LINE_S = 1.0
"""Between two lines where there is no terminal."""


class Watcher(Protocol):
    """Whoever is told how a load test goes on."""

    def begin(self, step: Step, label: str) -> None:
        """A step begins."""

    def see(self, at_s: float, outcomes: Outcomes) -> None:
        """Requests ended; ``at_s`` from the step's begin."""

    def say(self, text: str) -> None:
        """Something that is no number."""


class Recent:
    """The last seconds of a step, and the failures of all of it."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int, Values]] = deque()
        self._since = 0.0
        self.failures: Counter[str] = Counter()

    def see(self, at_s: float, outcomes: Outcomes) -> None:
        """Take in what ended, and forget what ended long ago."""
        good = outcomes.where(outcomes.code == OK)
        self._seen.append((at_s, len(good.done), (good.done - good.due) * 1e3))
        while self._seen[0][0] < at_s - RECENT_S:
            self._since = self._seen.popleft()[0]
        for code in outcomes.code[outcomes.code != OK].tolist():
            self.failures[code_name(code)] += 1

    def text(self) -> str:
        """Rate, p50 and p99 of late, failures by code."""
        latencies = [milliseconds for _, _, milliseconds in self._seen]
        count = sum(number for _, number, _ in self._seen)
        stretch = max((moment for moment, _, _ in self._seen), default=0.0) - self._since
        words = [f"{count / stretch if stretch > 0 else 0:,.0f}/s"]
        if count:
            p50, p99 = np.percentile(np.concatenate(latencies), [50, 99])
            words.append(f"p50 {p50:.2f} ms, p99 {p99:.2f} ms")
        words += [f"{name} {number}" for name, number in sorted(self.failures.items())]
        return ", ".join(words)


class Live:
    """A watcher for people; a context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[now]}", markup=False),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._task: TaskID | None = None
        self._recent = Recent()
        self._next_line_s = LINE_S
        self._what = ""

    def begin(self, step: Step, label: str) -> None:
        """A step begins."""
        self._recent, self._next_line_s = Recent(), LINE_S
        level = in_words(step.loop, step.level)
        self._what = f"{label}, {level}" if label else level
        if self._task is not None:
            self._progress.remove_task(self._task)
        total = None if math.isinf(step.end_s) else step.end_s
        self._task = self._progress.add_task(self._what, total=total, now="")

    def see(self, at_s: float, outcomes: Outcomes) -> None:
        """Requests ended."""
        self._recent.see(at_s, outcomes)
        if self._console.is_terminal and self._task is not None:
            self._progress.update(self._task, completed=at_s, now=self._recent.text())
        elif at_s >= self._next_line_s:
            self._next_line_s = math.floor(at_s / LINE_S + 1) * LINE_S
            self._print(f"{self._what}: {at_s:.0f} s, {self._recent.text()}")

    def say(self, text: str) -> None:
        """Something that is no number."""
        self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._progress.stop()
