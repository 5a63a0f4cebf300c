"""The original form of a model that serves, on disk: what answers are compared with, and what may take over.

    <cache>/originals/<key>/model.onnx, reference.onnx, model.onnx.data, batch_norms.npz

Both graphs share the weights. ``reference.onnx`` is the same model, with further outputs by which the drift
of the inputs is seen. All is made when it is first needed, for the next start, too.
"""

import tempfile
import threading
from pathlib import Path

from foldserve.disk_cache import read_entry, write_entry
from foldserve.errors import InvalidModel
from foldserve.graph_library import import_graph_library
from foldserve.observability.logging import get_logger
from foldserve.runtime.memory import return_freed_memory
from foldserve.runtime.providers import resolve_provider
from foldserve.serving.artefacts import artefact_key
from foldserve.serving.original_record import ORIGINAL, OriginalRecord
from foldserve.serving.repository import ModelVersion
from foldserve.settings import ModelSettings, ServerSettings

log = get_logger()


class Original:
    """The original of one model version; ``key`` is that of the artefact that was made from it."""

    def __init__(
        self, source: ModelVersion, settings: ModelSettings, server: ServerSettings, key: str
    ) -> None:
        self._source = source
        self._settings = settings
        self._server = server
        self._key = key
        self._lock = threading.Lock()
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._found: tuple[Path, OriginalRecord] | None = None

    def files(self) -> tuple[Path, OriginalRecord]:
        """The folder with the files, and what is known of them.

        Raises :class:`InvalidModel` where they have to be made and the model file is another one by now, and
        what reading it raises.
        """
        with self._lock:
            if self._found is None or not (self._found[0] / ORIGINAL).is_file():
                self._found = self._in_cache()
            if self._found is None:
                self._found = self._made()
                return_freed_memory()
            return self._found

    def close(self) -> None:
        """Remove what is kept for this process alone."""
        with self._lock:
            self._found = None
            if self._scratch is not None:
                self._scratch.cleanup()

    def _in_cache(self) -> tuple[Path, OriginalRecord] | None:
        record = read_entry(self._entry, OriginalRecord)
        return (self._entry, record) if record is not None else None

    def _made(self) -> tuple[Path, OriginalRecord]:
        # Half a second of imports that a start from the cache does without.
        import_graph_library()
        from foldserve.serving import model_file, original_files  # noqa: PLC0415

        with tempfile.TemporaryDirectory(prefix="foldserve-") as scratch:
            file = model_file.onnx_file(self._source, Path(scratch), self._server)
            self._require_unchanged()
            model = model_file.read_model(file)
            model_file.make_initialisers_constant(model)

            def write(into: Path) -> OriginalRecord:
                record = original_files.write(model, into)
                self._require_unchanged()  # not while they were read either
                return record

            try:
                folder = self._entry
                record = write_entry(folder, write)
            except OSError as error:
                log.warning("the cache cannot be written: keeping the original aside", reason=str(error))
                self._scratch = tempfile.TemporaryDirectory(prefix="foldserve-")
                folder = Path(self._scratch.name, "original")
                record = write_entry(folder, write)
            return folder, record

    def _require_unchanged(self) -> None:
        """Raise :class:`InvalidModel` if the model's files are not those that were loaded."""
        provider = resolve_provider(self._settings.provider)
        if artefact_key(self._source, self._settings, provider) != self._key:
            raise InvalidModel(
                f"model '{self._source.name}' version {self._source.version}: its files were changed "
                "since it was loaded, so there is no original to compare its answers with; load it again"
            )

    @property
    def _entry(self) -> Path:
        return self._server.cache_dir / "originals" / self._key
