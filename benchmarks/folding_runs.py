"""Running an optimiser in its own process and its own environment."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = HERE / "results"
FOLDERS_PYTHON = ROOT / ".venv-folders" / "bin" / "python"
"""Python with the other tools: see requirements-folders.txt."""

OURS = ("foldserve tier 0", "foldserve", "foldserve tier 2", "foldserve tier 3")
OTHERS = ("onnxruntime", "onnxslim", "onnxsim", "onnxscript", "onnxoptimizer")


@dataclass(frozen=True)
class Run:
    """What one run cost."""

    seconds: float
    """Time of the tool alone, the model in memory."""

    peak_bytes: int
    """Growth of the process's peak memory, from before the model was read."""


class ToolFailed(Exception):
    """The tool crashed; the text is the end of what it wrote."""


class Tool:
    """A process that runs one tool; started when first used, and again after a crash."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._process: subprocess.Popen[str] | None = None

    def run(self, model: Path, output: Path | None = None, *, timeout: float = 600) -> Run:
        """Run the tool on ``model`` and write its result to ``output``.

        Raises:
            ToolFailed: it crashed, or took longer than ``timeout`` seconds.
        """
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps([str(model), output and str(output)]) + "\n")
        process.stdin.flush()
        watch = threading.Timer(timeout, process.kill)
        watch.start()
        answer = process.stdout.readline()
        watch.cancel()
        if not answer:
            code = process.wait()
            self._process = None
            raise ToolFailed(f"{self._last_words()} (exit code {code})")
        return Run(**json.loads(answer))

    def stop(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.communicate()
            self._process = None

    def _started(self) -> "subprocess.Popen[str]":
        python = sys.executable if self.name in OURS else str(FOLDERS_PYTHON)
        self._words = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        return subprocess.Popen(
            [python, str(HERE / "folding_tools.py"), self.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            text=True,
            env=os.environ | {"ORT_DISABLE_TELEMETRY": "1"},
        )

    def _last_words(self) -> str:
        self._words.seek(0)
        lines = self._words.read().strip().splitlines()
        return lines[-1][-300:] if lines else "no message"


@contextmanager
def tools(names: Iterable[str]) -> Iterator[dict[str, Tool]]:
    """A process for each name, ended with the block."""
    made = {name: Tool(name) for name in names}
    try:
        yield made
    finally:
        for tool in made.values():
            tool.stop()
