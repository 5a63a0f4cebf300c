"""``foldserve inspect``: what would fold, and why the rest would not."""

import tempfile
from pathlib import Path

from rich.console import Console

from foldserve.commands.display import model_report
from foldserve.commands.model_files import describe, open_model
from foldserve.commands.progress import doing
from foldserve.commands.report import ModelReport, Totals
from foldserve.folding import fold


def inspect(path: Path, *, tier: int, as_json: bool, import_timeout_s: float) -> None:
    """Print what folding ``path`` would do; nothing is written.

    Raises the exceptions under :class:`~foldserve.errors.LoadFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="foldserve-") as scratch:
        opened = open_model(path, Path(scratch), import_timeout_s)
        with doing("folding"):
            report = fold(opened.model, max_tier=tier).report
            original = describe(path, None if opened.imported else opened.model)
    found = ModelReport(
        original=original,
        imported=opened.imported,
        max_tier=tier,
        totals=Totals.of(report),
        hint=report.hint,
        fold=report,
    )
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        Console().print(model_report(found))
