"""Loads that find what an earlier load left in the cache, and loads that find it damaged."""

import math
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.disk_cache import UNFINISHED, Draft, read_entry
from foldserve.errors import ExecutionFailed, InvalidModel
from foldserve.folding import FoldResult
from foldserve.observability.logging import configure_logging
from foldserve.runtime.engines import Engine
from foldserve.runtime.in_memory import InMemoryModel
from foldserve.runtime.session import Session
from foldserve.serving import loader, preparation
from foldserve.serving.artefacts import Artefact
from foldserve.serving.fold_tier import folded_forms
from foldserve.serving.lifecycle import Lifecycle, State
from foldserve.serving.opening import Opening
from foldserve.serving.repository import ModelVersion
from foldserve.serving.servable import Servable
from foldserve.serving.tune import LARGEST_TRIED
from foldserve.serving.waiting import Waiting
from foldserve.settings import LogFormat, LogLevel, ServerSettings, model_settings
from running import EXAMPLE_MODELS
from unit.serving.openers import ends_while_opening

STAGES = ("loading", "folding", "proving", "warming", "tuning")


@pytest.fixture
def source(tmp_path: Path) -> ModelVersion:
    folder = tmp_path / "models" / "digits"
    shutil.copytree(EXAMPLE_MODELS / "digits", folder)
    return ModelVersion("digits", 1, folder / "1")


def _load(source: ModelVersion, cache: Path, **settings: object) -> Servable:
    server = ServerSettings.model_validate(
        {"repository": [source.folder.parent.parent], "cache_dir": cache, "precisions": [], **settings}
    )
    configure_logging(LogFormat.JSON, LogLevel.INFO)
    lifecycle = Lifecycle()
    servable = loader.load(source, lifecycle, model_settings(server), server)
    assert lifecycle.state is State.WARMING
    return servable


def _answer(servable: Servable) -> np.ndarray:
    images = np.random.default_rng(0).random((2, 1, 8, 8), np.float32)
    return servable._session.run({"images": images})[0]


def test_a_second_load_opens_what_the_first_one_made(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _load(source, tmp_path / "cache")
    monkeypatch.setattr(preparation, "prepare", None)  # whoever prepares again fails
    second = _load(source, tmp_path / "cache")
    assert (first.provenance.from_cache, second.provenance.from_cache) == (False, True)
    assert second.provenance.fold_report == first.provenance.fold_report
    assert second.provenance.parity_report == first.provenance.parity_report
    assert second.provenance.tuning == first.provenance.tuning
    np.testing.assert_array_equal(_answer(first), _answer(second))
    assert set(first.provenance.stage_seconds) == set(STAGES)
    assert set(second.provenance.stage_seconds) == {"loading", "tuning", "warming"}


@pytest.mark.parametrize("name", ["model.onnx", "model.onnx.data", "evidence.npz", "entry.json"])
def test_a_damaged_entry_is_made_again(name: str, source: ModelVersion, tmp_path: Path) -> None:
    first = _load(source, tmp_path / "cache")
    (file,) = (tmp_path / "cache" / "models").glob(f"*/{name}")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    second = _load(source, tmp_path / "cache")
    assert not second.provenance.from_cache
    np.testing.assert_array_equal(_answer(first), _answer(second))
    assert _load(source, tmp_path / "cache").provenance.from_cache


@pytest.mark.parametrize(("ends", "again"), [(0, True), (1, True), (2, False)])
def test_an_entry_that_ends_the_process_again_and_again_is_made_anew_without_engines(
    ends: int, again: bool, source: ModelVersion, tmp_path: Path
) -> None:
    """Once, somebody may have killed it."""
    cache = tmp_path / "cache"
    first = _load(source, cache, precisions=["float32"])
    marks = cache / "opening" / first.provenance.artefact_key
    for _ in range(ends):
        ends_while_opening(marks)
    second = _load(source, cache, precisions=["float32"])
    assert second.provenance.from_cache is again
    assert not marks.exists()
    not_tried = [trial.failure for trial in second.provenance.engines.trials if trial.failure]
    assert any("the process ended" in reason for reason in not_tried) is not again


def test_a_process_that_ends_while_it_opens_an_entry_leaves_a_mark(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_engine, held = Opening.open_engine, []

    def watched(*given: Any, **options: Any) -> Session:
        held.append(len(list((tmp_path / "cache" / "opening").glob("*/*"))))
        return open_engine(*given, **options)

    _load(source, tmp_path / "cache")
    monkeypatch.setattr(Opening, "open_engine", watched)
    assert _load(source, tmp_path / "cache").provenance.from_cache
    assert held == [1]


def test_an_entry_that_is_another_model_is_found_out_by_its_answer(
    source: ModelVersion,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """All hashes fit: only asking the model tells."""

    save = ir.save

    def save_another(model: ir.Model, file: Path, *, external_data: str) -> None:
        weight = next(value for value in model.graph.initializers.values() if len(value.shape or ()) == 4)
        assert weight.const_value is not None
        weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.01), name=weight.name)
        save(model, file, external_data=external_data)

    monkeypatch.setattr(ir, "save", save_another)
    with pytest.raises(InvalidModel, match="answers differently each time"):
        _load(source, tmp_path / "cache")
    monkeypatch.undo()
    assert not _load(source, tmp_path / "cache").provenance.from_cache
    assert "it does not answer as it did" in capfd.readouterr().err


def test_where_engines_are_compared_another_layout_is_another_entry(
    source: ModelVersion, tmp_path: Path
) -> None:
    _load(source, tmp_path / "cache", precisions=["float32"])
    assert not _load(source, tmp_path / "cache", precisions=["float32"], instances=1).provenance.from_cache
    assert _load(source, tmp_path / "cache", precisions=["float32"], instances=1).provenance.from_cache


def test_a_changed_model_or_setting_is_another_entry(source: ModelVersion, tmp_path: Path) -> None:
    _load(source, tmp_path / "cache")
    assert not _load(source, tmp_path / "cache", max_fold_tier=0).provenance.from_cache
    assert not _load(source, tmp_path / "cache", parity={"relative_l2": 1e-4}).provenance.from_cache
    assert _load(source, tmp_path / "cache", max_queue_size=7).provenance.from_cache
    (source.folder.parent / "samples.npz").unlink()
    assert not _load(source, tmp_path / "cache").provenance.from_cache
    model = ir.load(source.folder / "model.onnx")
    model.doc_string = "changed"
    ir.save(model, source.folder / "model.onnx")
    assert not _load(source, tmp_path / "cache").provenance.from_cache


def test_without_a_cache_each_load_prepares(source: ModelVersion, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        servable = _load(source, tmp_path / "file")
        assert not servable.provenance.from_cache
        assert _answer(servable).shape == (2, 10)


def test_what_is_set_is_not_measured(source: ModelVersion, tmp_path: Path) -> None:
    servable = _load(source, tmp_path / "cache", instances=3, intra_op_threads=2, max_batch_size=1)
    layout = servable.provenance.tuning.layout
    assert (layout.instances, layout.threads) == (3, 2)
    assert servable.provenance.tuning.measurements == ()


def test_other_layouts_are_measured_anew_on_the_cached_model(source: ModelVersion, tmp_path: Path) -> None:
    first = _load(source, tmp_path / "cache")
    second = _load(source, tmp_path / "cache", intra_op_threads=1)
    assert second.provenance.from_cache
    assert second.provenance.tuning.measurements
    assert second.provenance.tuning != first.provenance.tuning


def test_for_another_objective_engines_are_tried_anew(source: ModelVersion, tmp_path: Path) -> None:
    _load(source, tmp_path / "cache")
    assert not _load(source, tmp_path / "cache", objective="latency").provenance.from_cache


def test_an_entry_that_cannot_be_opened_is_made_again(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when somebody empties the cache in just this moment."""
    _load(source, tmp_path / "cache")
    found = read_entry

    def found_and_lost(folder: Path, kind: type[Artefact]) -> Artefact | None:
        record = found(folder, kind)
        shutil.rmtree(folder)
        return record

    monkeypatch.setattr(loader, "read_entry", found_and_lost)
    servable = _load(source, tmp_path / "cache")
    assert not servable.provenance.from_cache
    assert _answer(servable).shape == (2, 10)


def test_a_batch_limit_of_any_size_costs_no_memory_to_tune(source: ModelVersion, tmp_path: Path) -> None:
    servable = _load(source, tmp_path / "cache", max_batch_size=1 << 30)
    tuning = servable.provenance.tuning
    assert max(one.rows for one in tuning.measurements) <= LARGEST_TRIED
    assert servable.most_rows == 1 << 30


def test_a_failed_proof_is_told_at_each_start(
    source: ModelVersion, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    budget = {"relative_l2": 1e-12, "scaled_max": 1e-12}
    for from_cache in (False, True):
        servable = _load(source, tmp_path / "cache", parity=budget)
        assert servable.provenance.from_cache is from_cache
        assert ("breach" in capfd.readouterr().err) is not servable.provenance.parity_report.passed


def test_what_was_written_ahead_of_a_failed_proof_does_not_serve(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(original: ir.Model, highest: int) -> list[FoldResult]:
        forms = folded_forms(original, highest)
        for form in forms:
            weight = next(one for one in form.model.graph.initializers.values() if len(one.shape or ()) == 4)
            assert weight.const_value is not None
            weight.const_value = ir.tensor(weight.const_value.numpy() * np.float32(1.1), name=weight.name)
        return forms

    expected = _answer(_load(source, tmp_path / "honest"))
    monkeypatch.setattr(preparation, "folded_forms", wrong)
    for _ in range(2):
        servable = _load(source, tmp_path / "cache")
        np.testing.assert_allclose(_answer(servable), expected, rtol=1e-4, atol=1e-5)
    assert servable.provenance.from_cache
    (entry,) = (tmp_path / "cache" / "models").iterdir()
    assert not entry.name.startswith(UNFINISHED)


def test_a_model_that_cannot_be_prepared_leaves_neither_files_nor_threads(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise InvalidModel("no")

    monkeypatch.setattr(preparation, "choose", fail)
    with pytest.raises(InvalidModel, match="no"):
        _load(source, tmp_path / "cache")
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    assert not any(thread.name.startswith("writing") for thread in threading.enumerate())


def test_the_session_that_was_proven_serves(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = _opened_files(monkeypatch)
    servable = _load(
        source, tmp_path / "cache", instances=1, intra_op_threads=1, max_batch_size=1, precisions=[]
    )
    assert len(opened) == 1
    assert servable._session is opened[0][1]
    assert _answer(servable).shape == (2, 10)
    again = _load(source, tmp_path / "cache", instances=1, intra_op_threads=1, max_batch_size=1)
    np.testing.assert_array_equal(_answer(again), _answer(servable))


def test_what_somebody_else_made_meanwhile_is_opened_anew(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep = Draft.keep

    def keep_as_another(draft: Draft, record: Artefact) -> Artefact:
        return keep(draft, record).model_copy()

    monkeypatch.setattr(Draft, "keep", keep_as_another)
    opened = _opened_files(monkeypatch)
    servable = _load(source, tmp_path / "cache", instances=1, intra_op_threads=1, max_batch_size=1)
    assert servable._session is opened[-1][1]
    assert opened[-1][0].parent.name == servable.provenance.artefact_key
    with pytest.raises(ExecutionFailed, match="is closed"):
        opened[0][1].run({"images": np.zeros((1, 1, 8, 8), np.float32)})


def _opened_files(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, Session]]:
    """Will hold every file that is opened, and the session with it."""
    opened: list[tuple[Path, Session]] = []
    really, really_engine = Opening.open, Opening.open_engine

    def open_noting(self: Opening, file: Path | InMemoryModel, *how: Any) -> Session:
        session = really(self, file, *how)
        if isinstance(file, Path):
            opened.append((file, session))
        return session

    def open_engine_noting(
        self: Opening, engine: Engine, file: Path, *how: Any, warm_rows: int = 1
    ) -> Session:
        session = really_engine(self, engine, file, *how, warm_rows=warm_rows)
        opened.append((file, session))
        return session

    monkeypatch.setattr(Opening, "open", open_noting)
    monkeypatch.setattr(Opening, "open_engine", open_engine_noting)
    return opened


def test_files_that_cannot_be_read_are_named(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> str:
        raise PermissionError(13, "Permission denied", "model.onnx")

    monkeypatch.setattr(loader, "artefact_key", refuse)  # rights do not stop the tests' own user everywhere
    with pytest.raises(InvalidModel, match=r"cannot be read: Permission denied \(model\.onnx\)"):
        _load(source, tmp_path / "cache")


def test_a_model_of_several_files_in_a_folder_of_its_own(source: ModelVersion, tmp_path: Path) -> None:
    """Triton's form: 1/model.onnx/model.onnx with its weights beside it."""
    model = ir.load(source.folder / "model.onnx")
    (source.folder / "model.onnx").unlink()
    (source.folder / "model.onnx").mkdir()
    ir.save(model, source.folder / "model.onnx" / "model.onnx", external_data="weights")
    assert _answer(_load(source, tmp_path / "cache")).shape == (2, 10)
    (source.folder / "model.onnx" / "weights").unlink()
    with pytest.raises(InvalidModel, match="in weights, which is not in"):
        _load(source, tmp_path / "cache")


@pytest.mark.parametrize(("operator", "is_steady"), [("NonZero", False), ("Neg", True)])
def test_a_model_whose_time_depends_on_values_never_holds_up_the_reader(
    tmp_path: Path, operator: str, is_steady: bool
) -> None:
    """A Loop that ran once in no time may run for hours with the next request's values."""
    folder = tmp_path / "models" / "net" / "1"
    folder.mkdir(parents=True)
    text = f"""<ir_version: 9, opset_import: ["": 18]>
        g (float[n, 2] x) => (float[n, 2] y) {{ found = {operator}(x) s = Shape(found) y = Neg(x) }}"""
    model = onnx.parser.parse_model(text)
    onnx.save(model, folder / "model.onnx")
    servable = _load(ModelVersion("net", 1, folder), tmp_path / "cache")
    line = [Waiting({"x": np.zeros((1, 2), np.float32)}, ("y",), 1, lambda: False, lambda _: None, math.inf)]
    pace = servable._batcher._pace
    pace.record(line, 1e-6)
    assert pace.is_short(line) is is_steady


def test_files_that_change_while_they_are_loaded_are_not_kept_under_their_old_name(
    source: ModelVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    really = preparation.prepare

    def prepare_and_change(*given: Any, **named: Any) -> Any:
        made = really(*given, **named)
        file = source.folder / "model.onnx"
        file.write_bytes(file.read_bytes())
        return made

    monkeypatch.setattr(preparation, "prepare", prepare_and_change)
    with pytest.raises(InvalidModel, match="changed while it was loaded; load it again"):
        _load(source, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "models").glob("*"))
    monkeypatch.undo()
    assert not _load(source, tmp_path / "cache").provenance.from_cache
