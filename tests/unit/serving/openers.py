"""Processes that open models, and end."""

import subprocess
import sys
from pathlib import Path

ENDS = """
import os, sys
from pathlib import Path
from foldserve.serving.marks import under

with under(Path(sys.argv[1])) as is_marked:
    os._exit(7 if is_marked else 1)
"""


def ends_while_opening(marks: Path) -> None:
    """Have a process end while it opens what ``marks`` stands for."""
    assert subprocess.run([sys.executable, "-c", ENDS, str(marks)], check=False).returncode == 7
