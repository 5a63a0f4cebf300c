"""Writing the files of an artefact: candidates are proven as they lie there, and the chosen one serves so."""

import shutil
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from foldserve.disk_cache import Draft, draft
from foldserve.observability.logging import get_logger
from foldserve.parity.evidence import Evidence
from foldserve.serving.artefacts import EVIDENCE, MODEL, WEIGHTS, Artefact
from foldserve.serving.model_file import without_files

log = get_logger()


@contextmanager
def artefact_files(entry: Path, aside: Path) -> Iterator["ArtefactFiles"]:
    """What writes one entry, for as long as the block lasts; then its thread has ended.

    Where ``entry`` cannot be written it goes to ``aside`` instead.
    """
    with ExitStack() as drafts, ThreadPoolExecutor(1, "writing") as beside:
        yield ArtefactFiles(entry, aside, drafts, beside)


@dataclass(frozen=True)
class _Written:
    """A model that is being written."""

    model: ir.Model
    saved: Future[Draft]
    hashed: Future[None]


class ArtefactFiles:
    """The files of one entry; what was written in vain is removed when the block ends."""

    def __init__(self, entry: Path, aside: Path, drafts: ExitStack, beside: ThreadPoolExecutor) -> None:
        self.entry = entry
        """Where they go."""

        self._aside = aside
        self._drafts = drafts
        self._beside = beside
        self._last: _Written | None = None

    def write(self, model: ir.Model) -> None:
        """Begin to write ``model``, in another thread; it must not be changed any more."""
        saved = self._beside.submit(self._saved, model)
        self._last = _Written(model, saved, self._beside.submit(lambda: saved.result().hash_files()))

    def file_of(self, model: ir.Model) -> Path:
        """The file of ``model``, until it moves to its place, which whoever has it open need not mind."""
        return self._written(model).saved.result().folder / MODEL

    def finish(self, model: ir.Model, evidence: Evidence | None, record: Artefact) -> Artefact:
        """Make ``model`` the entry; returns its record, which is another one if somebody was faster.

        Raises OSError where nothing can be written at all.
        """
        try:
            return self._finished(model, evidence, record)
        except OSError as error:
            before = self.file_of(model).parent
            self._leave_cache(error)
            for conversion in before.glob(f"{Path(MODEL).stem}.*{Path(MODEL).suffix}*"):
                shutil.copy2(conversion, self.file_of(model).parent)
            return self._finished(model, evidence, record)

    def _finished(self, model: ir.Model, evidence: Evidence | None, record: Artefact) -> Artefact:
        written = self._written(model)
        written.hashed.result()
        made = written.saved.result()
        if evidence is not None:
            evidence.save(made.folder / EVIDENCE)
        return made.keep(record)

    def _written(self, model: ir.Model) -> _Written:
        if self._last is None or self._last.model is not model:
            self.write(model)
        assert self._last is not None
        return self._last

    def _saved(self, model: ir.Model) -> Draft:
        try:
            return self._draft_of(model)
        except OSError as error:
            self._leave_cache(error)
            return self._draft_of(model)

    def _draft_of(self, model: ir.Model) -> Draft:
        with ExitStack() as unless_written:
            made = unless_written.enter_context(draft(self.entry))
            ir.save(without_files(model), made.folder / MODEL, external_data=WEIGHTS)
            self._drafts.push(unless_written.pop_all())
        return made

    def _leave_cache(self, error: OSError) -> None:
        """Write to another place from now on; raises ``error`` where that was the other place."""
        if self.entry == self._aside:
            raise error
        log.warning("the cache cannot be written: preparing again at each start", reason=str(error))
        self.entry, self._last = self._aside, None
