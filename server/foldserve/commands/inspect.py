"""``foldserve inspect``: what would fold, why the rest would not, and which engine would serve it."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from foldserve.commands.display import model_report
from foldserve.commands.model_files import OpenModel, describe, open_model
from foldserve.commands.progress import doing
from foldserve.commands.report import ModelReport, Totals
from foldserve.folding import fold
from foldserve.serving.engine_choice import EngineReport
from foldserve.settings import ModelDefaults, Precision


@dataclass(frozen=True)
class Contest:
    """What engines are tried with; the server's defaults where nothing is said."""

    inputs: Path | None
    relative_l2: float | None
    precisions: tuple[Precision, ...]

    def __call__(self, opened: OpenModel, scratch: Path, tier: int) -> EngineReport:
        """The report on a model."""
        from foldserve.commands.engines import try_engines  # noqa: PLC0415  # a runtime, which folding needs not

        given: dict[str, object] = {"max_fold_tier": tier}
        if self.relative_l2:
            given["parity"] = {"relative_l2": self.relative_l2}
        if self.precisions:
            given["precisions"] = self.precisions
        with doing("trying engines"):
            return try_engines(
                opened, scratch, self.inputs, ModelDefaults.model_validate({"max_fold_tier": tier, **given})
            )


def inspect(
    path: Path, *, tier: int, contest: Contest | None, as_json: bool, import_timeout_s: float
) -> None:
    """Print what folding ``path`` would do, and how each engine runs it; nothing is written.

    Raises the exceptions under :class:`~foldserve.errors.LoadFailed`.
    """
    with tempfile.TemporaryDirectory(prefix="foldserve-") as scratch:
        opened = open_model(path, Path(scratch), import_timeout_s)
        with doing("folding"):
            report = fold(opened.model, max_tier=tier).report
            original = describe(path, None if opened.imported else opened.model)
        engines = contest(opened, Path(scratch), tier) if contest is not None else None
    found = ModelReport(
        original=original,
        imported=opened.imported,
        max_tier=tier,
        totals=Totals.of(report),
        hint=report.hint,
        fold=report,
        engines=engines,
    )
    if as_json:
        print(found.model_dump_json(indent=2))
    else:
        Console().print(model_report(found))
