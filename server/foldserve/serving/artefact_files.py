"""Writing the files of an artefact: the model that will likely serve ahead, while it is being proven."""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx_ir as ir

from foldserve.disk_cache import Draft, draft
from foldserve.serving.artefacts import EVIDENCE, MODEL, WEIGHTS, Artefact
from foldserve.serving.model_file import without_files
from foldserve.serving.preparation import Prepared


@contextmanager
def artefact_files(entry: Path) -> Iterator["ArtefactFiles"]:
    """What writes one entry, for as long as the block lasts; then its thread has ended."""
    with ExitStack() as drafts, ThreadPoolExecutor(1, "writing") as beside:
        yield ArtefactFiles(entry, drafts, beside)


class ArtefactFiles:
    """The files of one entry; what was written ahead in vain is removed when the block ends."""

    def __init__(self, entry: Path, drafts: ExitStack, beside: ThreadPoolExecutor) -> None:
        self._entry = entry
        self._drafts = drafts
        self._beside = beside
        self._ahead: tuple[ir.Model, Future[Draft]] | None = None

    def write_ahead(self, model: ir.Model) -> None:
        """Begin to write ``model``, in another thread; it must not be changed any more."""
        self._ahead = model, self._beside.submit(self._written, model)

    def finish(self, prepared: Prepared) -> Artefact:
        """Write what is not there yet, and make it the entry; raises OSError where it cannot be written."""
        chosen = prepared.choice.candidate.model
        if self._ahead is not None and self._ahead[0] is chosen:
            written = self._ahead[1].result()
        else:
            written = self._written(chosen)
        if prepared.evidence is not None:
            prepared.evidence.save(written.folder / EVIDENCE)
        return written.keep(_record(prepared))

    def _written(self, model: ir.Model) -> Draft:
        with ExitStack() as unless_written:
            written = unless_written.enter_context(draft(self._entry))
            ir.save(without_files(model), written.folder / MODEL, external_data=WEIGHTS)
            written.hash_files()
            self._drafts.push(unless_written.pop_all())
        return written


def _record(prepared: Prepared) -> Artefact:
    return Artefact(
        variant=prepared.choice.candidate.form.variant,
        provider=prepared.choice.session.provider,
        provider_seconds=dict(prepared.provider_seconds),
        optimisation=prepared.choice.optimisation,
        fold_report=prepared.choice.candidate.fold_report,
        parity_report=prepared.choice.parity_report,
        batches=prepared.batches,
        reference_seconds=prepared.reference_seconds,
    )
