"""The original that answers, and gives out values inside of it."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from foldserve.errors import ExecutionFailed
from foldserve.parity import reference as reference_module
from foldserve.parity.reference import Reference
from foldserve.parity.sections import open_unoptimised
from foldserve.runtime.session import Session
from unit.parity import networks

MODEL = ir.from_proto(onnx.load_from_string(networks.original(networks.layers(depth=3))))
PROBE = {"x": np.random.default_rng(0).normal(size=(2, networks.CHANNELS, networks.SIZE, networks.SIZE))}
PROBE = {"x": PROBE["x"].astype(np.float32)}


def _expected(*names: str) -> list[np.ndarray]:
    reference = Reference(MODEL, names)
    return reference.values(PROBE, names)


def _of(probe: dict[str, np.ndarray], name: str) -> np.ndarray:
    return Reference(MODEL, [name]).values(probe, [name])[0]


def test_its_outputs_are_the_model_s_whatever_is_exposed() -> None:
    plain, exposing = Reference(MODEL), Reference(MODEL, ["n1", "n2"])
    assert [spec.name for spec in exposing.outputs] == [spec.name for spec in plain.outputs] == ["y"]
    assert len(exposing.run(PROBE)) == 1
    np.testing.assert_array_equal(exposing.run(PROBE)[0], plain.run(PROBE)[0])


def test_a_run_for_the_values_inside_is_the_answer_too() -> None:
    reference = Reference(MODEL, ["n1"])
    (inner,) = reference.values(PROBE, ["n1"])
    assert len(reference.seconds()) == 1
    np.testing.assert_array_equal(reference.run(PROBE)[0], Reference(MODEL).run(PROBE)[0])
    assert len(reference.seconds()) == 1
    assert inner.shape[1] == networks.CHANNELS


def test_what_is_fetched_ahead_is_not_computed_again() -> None:
    runs: list[int] = []

    class Counting:
        """A session that notes how many outputs it was asked for."""

        def __init__(self, session: Session) -> None:
            self._session = session

        def __getattr__(self, name: str) -> object:
            return getattr(self._session, name)

        def run(self, inputs: dict[str, np.ndarray], outputs: list[str] | None = None) -> list[np.ndarray]:
            runs.append(len(outputs or ()))
            return self._session.run(inputs, outputs)

    other = {"x": PROBE["x"] + 1}
    refused = {"x": PROBE["x"][:, :1]}
    reference = Reference(MODEL, ["n1", "n2"], lambda model: Counting(open_unoptimised(model)))  # type: ignore[arg-type,return-value]
    reference.fetch_ahead(PROBE)
    assert runs == [3]
    found = reference.values(PROBE, ["n2"])
    np.testing.assert_array_equal(found[0], _expected("n2")[0])
    np.testing.assert_array_equal(reference.run(PROBE)[0], Reference(MODEL).run(PROBE)[0])
    assert runs == [3]
    np.testing.assert_array_equal(reference.values(PROBE, ["n2"])[0], found[0])  # kept for one asker only
    np.testing.assert_array_equal(reference.values(other, ["n1"])[0], _of(other, "n1"))
    assert runs == [3, 2, 2]
    reference.fetch_ahead(refused)
    assert not reference.takes(refused)


def test_what_was_fetched_ahead_does_not_hide_what_is_exposed_later() -> None:
    reference = Reference(MODEL, ["n1"])
    reference.fetch_ahead(PROBE)
    reference.expose(["n3"])
    np.testing.assert_array_equal(reference.values(PROBE, ["n3"])[0], _expected("n3")[0])


def test_others_can_be_exposed_later_and_answers_stay() -> None:
    opened: list[Session] = []

    def open_model(model: ir.Model) -> Session:
        opened.append(open_unoptimised(model))
        return opened[-1]

    reference = Reference(MODEL, ["n1", "n2", "not there"], open_model)
    answer = reference.run(PROBE)
    assert set(reference.expose(["n2"])) == {"n2"}
    assert len(opened) == 1
    assert set(reference.expose(["n2", "n3"])) == {"n2", "n3"}
    assert len(opened) == 2
    with pytest.raises(ExecutionFailed, match="is closed"):
        opened[0].run(PROBE)
    assert reference.run(PROBE) is answer
    np.testing.assert_array_equal(reference.values(PROBE, ["n3"])[0], _expected("n3")[0])


def test_a_probe_for_which_too_much_would_be_held_is_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_module, "LARGEST_FETCH_BYTES", 0)
    opened: list[int] = []

    def open_model(model: ir.Model) -> Session:
        opened.append(len(model.graph.outputs))
        return open_unoptimised(model)

    reference = Reference(MODEL, ["n1", "n2"], open_model)
    np.testing.assert_array_equal(reference.run(PROBE)[0], Reference(MODEL).run(PROBE)[0])
    assert opened == [3, 1]
    reference.close()


def test_what_the_original_refuses_it_does_not_take() -> None:
    reference = Reference(MODEL)
    assert reference.takes(PROBE)
    assert not reference.takes({"x": PROBE["x"][:, :1]})
