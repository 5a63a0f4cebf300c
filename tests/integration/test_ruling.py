"""Who was right when parity broke: float64 says."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.parity.judge import Float64Judge
from foldserve.serving import fallback
from foldserve.serving.opening import Opening
from integration.breaking import (
    POSITIVE,
    Caller,
    disputes,
    foldable,
    in_session,
    of_net,
    plant,
    scaled,
    sensitive,
    servable,
    serving_net,
)
from running import scraped
from small_models import add_model
from watching import until, watching


def test_where_the_original_is_inaccurate_the_fold_answers_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with serving_net(tmp_path, sensitive()) as pair:
        server, _ = pair
        own = servable(server, "net")
        assert own.variant == "folded"
        # Optimised, the runtime folds as well; this is one that does not.
        monkeypatch.setattr(Opening, "open", lambda *_: in_session(sensitive()))
        caller = Caller(pair, "net", POSITIVE * np.float32(1e-3))
        caller.until(lambda: disputes(server, "right"), "float64 is asked")
        until(lambda: own.fallback is None, "the fold answers again")
        assert own.variant == "folded"
        assert scraped(server)[of_net("foldserve_fallback_total", reason="parity_breach")] == 1


def test_where_only_the_slow_form_is_left_float64_is_asked_before_anything_is_swapped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The optimised forms of the original answer as the fold does."""
    monkeypatch.setattr(fallback, "ASKING_SHARE", 1.0)
    with serving_net(tmp_path, sensitive()) as pair:
        server, client = pair
        own = servable(server, "net")
        caller = Caller(pair, "net", POSITIVE * np.float32(1e-3))
        caller.until(lambda: disputes(server, "right"), "float64 is asked")
        assert own.fallback is None
        so_far = client.parity("net").live.checks["breach"]
        caller.until(lambda: client.parity("net").live.checks["breach"] >= so_far + 6, "it is so again")
        caller.until(lambda: disputes(server, "right") >= 2, "float64 is asked again")
        assert own.fallback is None
        assert of_net("foldserve_fallback_total", reason="parity_breach") not in scraped(server)
        plant(server, "net", scaled(sensitive(), 1.02))
        caller.until(lambda: own.fallback, "a fold that is wrong gives way, for all that")


def test_where_nobody_can_say_the_unfolded_model_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = foldable()
    with serving_net(tmp_path, model) as pair:
        server, _ = pair
        monkeypatch.setattr(fallback, "LONGEST_RULING_S", 0.01)
        plant(server, "net", scaled(model, 1.02))
        caller = Caller(pair, "net", POSITIVE)
        caller.until(lambda: disputes(server, "undecided"), "float64 is asked")
        assert servable(server, "net").fallback is not None


def test_a_ruling_that_fails_leaves_the_unfolded_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = foldable()
    with serving_net(tmp_path, model) as pair:
        server, _ = pair

        def no_processes(*_: Any, **__: Any) -> None:
            raise OSError("cannot fork: no memory")

        monkeypatch.setattr(Float64Judge, "truth", no_processes)
        plant(server, "net", scaled(model, 1.02))
        caller = Caller(pair, "net", POSITIVE)
        caller.until(lambda: disputes(server, "undecided"), "float64 is asked")
        assert servable(server, "net").fallback is not None
        assert (
            scraped(server)[of_net("foldserve_batchnorms", outcome="rejected", reason="parity_breach")] == 1
        )


def test_the_judge_knows_the_shapes_that_callers_see(tmp_path: Path) -> None:
    """Triton's reshape: callers send flat images to a model that takes them with their axes."""
    model = sensitive()
    add_model(tmp_path / "repository", "net", model)
    (tmp_path / "repository" / "net" / "config.pbtxt").write_text(
        """max_batch_size: 8
        input { name: "x" data_type: TYPE_FP32 dims: [192] reshape { shape: [3, 8, 8] } }
        output { name: "y" data_type: TYPE_FP32 dims: [4, 6, 6] }"""
    )
    with watching(tmp_path / "repository", cache_dir=tmp_path / "cache") as pair:
        server, _ = pair
        caller = Caller(pair, "net", (POSITIVE * np.float32(1e-3)).reshape(1, 192))
        caller.until(lambda: disputes(server, "right"), "float64 is asked")
        until(lambda: servable(server, "net").fallback is None, "the fold answers again")


def test_answers_of_one_output_among_several_are_judged(tmp_path: Path) -> None:
    """The usual sizes of outputs that this caller did not ask for are known, too."""
    model = sensitive()
    (y,) = model.graph.outputs
    halved = ir.node("Mul", [y, y], name="square")
    halved.outputs[0].name, halved.outputs[0].type = "other", y.type
    model.graph.append(halved)
    model.graph.outputs.append(halved.outputs[0])
    with serving_net(tmp_path, model) as pair:
        server, client = pair
        client.infer("net", POSITIVE)
        small = POSITIVE * np.float32(1e-3)

        def asked() -> float:
            client.infer("net", small, outputs=["y"])
            until(lambda: not server._manager._shadowing._worker._waiting, "the check ends")
            return disputes(server, "right")

        until(asked, "float64 is asked")
        assert disputes(server, "undecided") == 0
        assert servable(server, "net").fallback is None


def test_two_models_that_break_do_not_wait_for_each_others_ruling(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = foldable()
    for name in ("net", "other"):
        add_model(tmp_path / "repository", name, model)
    with watching(tmp_path / "repository", cache_dir=tmp_path / "cache") as pair:
        server, _ = pair
        may_judge = threading.Event()
        truth = Float64Judge.truth

        def later(self: Float64Judge, probe: Any) -> Any:
            assert may_judge.wait(60)
            return truth(self, probe)

        monkeypatch.setattr(Float64Judge, "truth", later)
        for name in ("net", "other"):
            plant(server, name, scaled(model, 1.02))
            own = servable(server, name)
            Caller(pair, name, POSITIVE).until(lambda own=own: own.fallback, "it falls back")  # type: ignore[misc]  # mypy knows no default of a lambda
        assert disputes(server, "wrong") == 0
        may_judge.set()
        until(lambda: disputes(server, "wrong"), "both are ruled on in the end")
