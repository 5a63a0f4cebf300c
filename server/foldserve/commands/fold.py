"""``foldserve fold``: write the folded model, if it is proved to be the same function."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from foldserve.commands.display import breach, model_report, parity_report
from foldserve.commands.model_files import (
    OpenModel,
    describe,
    external_files,
    open_model,
    publish,
    write_model,
)
from foldserve.commands.page import page
from foldserve.commands.progress import doing
from foldserve.commands.report import ModelReport, Totals
from foldserve.errors import ConfigurationError
from foldserve.folding import FoldResult
from foldserve.folding import fold as fold_model
from foldserve.parity.proof import prove_models
from foldserve.parity.report import ParityReport
from foldserve.serving.model_file import read_model

REPORT_SUFFIXES = (".json", ".html")


def fold(
    path: Path,
    output: Path,
    *,
    report: Path | None,
    tier: int,
    keep: Sequence[str],
    inputs: Path | None,
    import_timeout_s: float,
) -> bool:
    """Fold ``path``, prove it, and only then write ``output`` and ``report``; whether the proof held.

    Raises :class:`~foldserve.errors.ConfigurationError` for destinations and sites that cannot be, and the
    exceptions under :class:`~foldserve.errors.LoadFailed` for a model that cannot be folded or proved.
    """
    _check_destinations(path, output, report)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".foldserve-", dir=output.parent) as folder:
        scratch = Path(folder)
        opened = open_model(path, scratch / "imported", import_timeout_s)
        _check_data(opened, output)
        _name_nodes(opened)
        with doing("folding"):
            result = fold_model(opened.model, max_tier=tier, keep=keep)
        _check_sites(keep, result)
        written = scratch / output.name
        with doing("writing"):
            write_model(result.model, written, result.report.initializer_bytes_after)
        parity = _proof(opened, written, result, inputs)
        if not parity.passed:
            Console().print(parity_report(parity))
            Console(stderr=True).print(breach(parity, result.report))
            return False
        found = ModelReport(
            original=describe(path, None if opened.imported else opened.model),
            imported=opened.imported,
            max_tier=tier,
            totals=Totals.of(result.report),
            hint=result.report.hint,
            fold=result.report,
            folded=describe(written, read_model(written)),
            parity=parity,
        )
        if report is not None:
            with doing("writing the report"):
                is_page = report.suffix == ".html"
                text = page(found, opened.model, result.model) if is_page else found.model_dump_json(indent=2)
                report.parent.mkdir(parents=True, exist_ok=True)
                report.write_text(text)
        publish(written, output)
    Console().print(model_report(found))
    return True


def _proof(opened: OpenModel, written: Path, result: FoldResult, inputs: Path | None) -> ParityReport:
    pairs = [(pair.original, pair.folded) for site in result.report.sites for pair in site.pairs]
    with doing("proving"):
        return prove_models(opened.onnx, written, pairs=list(dict.fromkeys(pairs)), inputs=inputs)


def _check_destinations(path: Path, output: Path, report: Path | None) -> None:
    if output.suffix != ".onnx":
        raise ConfigurationError(
            f"--output {output}: the folded model is an ONNX file; end its name in .onnx"
        )
    if output.resolve() == path.resolve():
        raise ConfigurationError(f"--output {output} is the model itself; choose another name")
    if report is not None and report.suffix not in REPORT_SUFFIXES:
        raise ConfigurationError(f"--report {report}: end its name in {' or '.join(REPORT_SUFFIXES)}")


def _check_data(opened: OpenModel, output: Path) -> None:
    data = output.with_name(f"{output.name}.data").resolve()
    if data in {file.resolve() for file in external_files(opened.model)}:
        raise ConfigurationError(f"--output {output}: {data.name} holds the model's own data; choose another")


def _name_nodes(opened: OpenModel) -> None:
    """Give each node the name that the report has for it: so it is found in the folded model, too."""
    for node in opened.model.graph.all_nodes():
        node.name = node.name or node.outputs[0].name


def _check_sites(keep: Sequence[str], result: FoldResult) -> None:
    if unknown := set(keep) - {site.name for site in result.report.sites}:
        raise ConfigurationError(f"--keep: no such site: {', '.join(sorted(unknown))}; see foldserve inspect")
