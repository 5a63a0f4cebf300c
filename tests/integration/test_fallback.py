"""Who takes over when parity breaks in service."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from foldserve.errors import InvalidModel
from foldserve.serving.ladder import Optimisation
from foldserve.serving.opening import Opening
from foldserve.serving.original import Original
from integration.breaking import (
    POSITIVE,
    Caller,
    disputes,
    foldable,
    in_session,
    of_net,
    padded_then_pooled,
    plant,
    scaled,
    servable,
    serving_net,
)
from planted import plant_a_wrong_fold
from running import EXAMPLE_MODELS, of_digits, scraped
from small_models import add_model, batch_norm, chain, convolution
from watching import until, watching


def test_an_optimisation_that_the_gate_left_out_does_not_come_back(tmp_path: Path) -> None:
    model = padded_then_pooled()
    with serving_net(tmp_path, model) as (server, client):
        own = servable(server, "net")
        assert own.provenance.optimisation is Optimisation.SOUND
        right = client.infer("net", -POSITIVE)["y"]
        plant(server, "net", scaled(model, 1.02))
        Caller((server, client), "net", POSITIVE).until(lambda: own.fallback, "the unfolded model takes over")
        assert own.fallback is not None
        assert own.fallback.runtime_optimisation == "without Pad_Fusion"
        np.testing.assert_allclose(client.infer("net", -POSITIVE)["y"], right, rtol=1e-5)


def test_a_fallback_that_breaks_parity_gives_way_to_one_with_less_optimisation(tmp_path: Path) -> None:
    model = foldable()
    with serving_net(tmp_path, model) as pair:
        server, client = pair
        own = servable(server, "net")
        right = client.infer("net", POSITIVE)["y"]
        steps: list[str] = []

        def fallbacks() -> float:
            return scraped(server).get(of_net("foldserve_fallback_total", reason="parity_breach"), 0)

        for _ in range(3):
            plant(server, "net", scaled(model, 1.02))
            Caller(pair, "net", POSITIVE).until(lambda: fallbacks() > len(steps), "a step down")
            assert own.fallback is not None
            steps.append(own.fallback.runtime_optimisation)
        assert steps == ["all", "without Pad_Fusion", "without Pad_Fusion, NchwcTransformer"]
        np.testing.assert_allclose(client.infer("net", POSITIVE)["y"], right, rtol=1e-4)


def test_a_takeover_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    with watching() as (server, client):
        own, image = servable(server, "digits"), digits[0][:1]
        files, tried = Original.files, []

        def full_disk(self: Original) -> Any:
            tried.append(self)
            raise OSError("no space left on device")

        Caller((server, client), "digits", image).until(
            lambda: client.parity("digits").live.checks["ok"],
            "it is compared",
        )
        monkeypatch.setattr(Original, "files", full_disk)
        plant_a_wrong_fold(server)
        Caller((server, client), "digits", image).until(lambda: tried, "a take-over is tried")
        assert own.fallback is None
        monkeypatch.setattr(Original, "files", files)
        Caller((server, client), "digits", image).until(lambda: own.fallback, "the next one succeeds")


def test_a_form_that_cannot_be_opened_is_passed_over(monkeypatch: pytest.MonkeyPatch, digits: Any) -> None:
    with watching() as (server, client):
        own, image = servable(server, "digits"), digits[0][:1]
        open_as_it_is = Opening.open

        def only_unoptimised(self: Opening, source: Any, provider: Any, optimisation: Any, *more: Any) -> Any:
            if optimisation is not Optimisation.OFF:
                raise InvalidModel("out of memory")
            return open_as_it_is(self, source, provider, optimisation, *more)

        monkeypatch.setattr(Opening, "open", only_unoptimised)
        plant_a_wrong_fold(server)
        Caller((server, client), "digits", image).until(lambda: own.fallback, "the last form takes over")
        assert own.fallback is not None
        assert own.fallback.runtime_optimisation == "off"


def test_a_form_that_does_not_answer_rightly_is_passed_over(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = foldable()
    with serving_net(tmp_path, model) as pair:
        server, _ = pair
        open_as_it_is = Opening.open

        def wrong_if_optimised(
            self: Opening, source: Any, provider: Any, optimisation: Any, *more: Any
        ) -> Any:
            if optimisation is Optimisation.ALL:
                return in_session(scaled(model, 1.05))
            return open_as_it_is(self, source, provider, optimisation, *more)

        monkeypatch.setattr(Opening, "open", wrong_if_optimised)
        plant(server, "net", scaled(model, 1.02))
        own = servable(server, "net")
        Caller(pair, "net", POSITIVE).until(lambda: own.fallback, "another form takes over")
        assert own.fallback is not None
        assert own.fallback.runtime_optimisation == "without Pad_Fusion"


def test_what_somebody_decided_meanwhile_is_not_undone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A reset while another form is being opened: the breaches are those of a time that is over."""
    model = foldable()
    with serving_net(tmp_path, model) as pair:
        server, client = pair
        own = servable(server, "net")
        plant(server, "net", scaled(model, 1.02))
        caller = Caller(pair, "net", POSITIVE)
        caller.until(lambda: own.fallback, "it falls back")
        until(lambda: disputes(server, "wrong"), "float64 is asked")
        opening, may_open = threading.Event(), threading.Event()
        open_as_it_is = Opening.open

        def later(self: Opening, *arguments: Any) -> Any:
            opening.set()
            assert may_open.wait(60)
            return open_as_it_is(self, *arguments)

        monkeypatch.setattr(Opening, "open", later)
        plant(server, "net", scaled(model, 1.02))
        caller.until(opening.is_set, "a step down begins")
        client.reset_fallback("net")
        may_open.set()
        until(lambda: not server._manager._shadowing._takeovers.qsize(), "it ends")
        until(lambda: own.shadow is not None and not own.shadow.breaker.tripped, "it ends")
        assert own.fallback is None


def test_what_ran_before_a_reset_does_not_count_after_it(tmp_path: Path) -> None:
    model = foldable()
    with serving_net(tmp_path, model) as (server, client):
        own = servable(server, "net")
        shadow, wrong = own.shadow, in_session(scaled(model, 1.02))
        assert shadow is not None
        run = wrong.run

        def reset_meanwhile(*arguments: Any) -> Any:
            shadow.reset()
            return run(*arguments)

        wrong.run = reset_meanwhile  # type: ignore[method-assign, assignment]  # this session alone
        own._batcher.use(wrong)
        for _ in range(5):
            client.infer("net", POSITIVE)
        until(lambda: client.parity("net").live.checks["breach"] == 5, "all are compared")
        assert shadow.breaker.checks == 0
        assert own.fallback is None


def test_what_is_told_of_the_fold_follows_the_fallback_and_the_reset(digits: Any) -> None:
    with watching() as (server, client):
        image = digits[0][:1]
        folded = of_digits("foldserve_batchnorms", outcome="folded", reason="")
        rejected = of_digits("foldserve_batchnorms", outcome="rejected", reason="parity_breach")
        assert scraped(server)[folded] == 4
        plant_a_wrong_fold(server)
        caller = Caller((server, client), "digits", image)
        caller.until(lambda: scraped(server).get(rejected) == 4, "it is told")
        assert folded not in scraped(server)
        assert scraped(server)[of_digits("foldserve_biases_stripped")] == 0
        is_wrong = of_digits("foldserve_parity_disputes_total", verdict="wrong")
        until(lambda: scraped(server).get(is_wrong) == 1, "float64 was asked")
        client.reset_fallback("digits")
        assert scraped(server)[folded] == 4
        assert rejected not in scraped(server)


def test_a_reload_without_a_shadow_tells_nothing_of_the_fallback_before(tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    model = foldable()
    add_model(repository, "net", model)
    explicit: dict[str, Any] = {"model_control": "explicit", "load_models": ["net"]}
    with watching(repository, cache_dir=tmp_path / "cache", **explicit) as (server, client):
        plant(server, "net", scaled(model, 1.02))
        caller = Caller((server, client), "net", POSITIVE)
        caller.until(lambda: servable(server, "net").fallback, "it falls back")
        (repository / "net" / "foldserve.yaml").write_text("shadow: {sample_rate: 0}")
        client.load_model("net")
        assert not client.parity("net").HasField("fallback")
        assert not [name for name, _ in scraped(server) if name.startswith("foldserve_fallback")]


def test_the_same_request_that_overflows_the_original_changes_nothing(tmp_path: Path) -> None:
    """Whoever may ask could otherwise make the server slower for all."""
    one = np.ones(4, np.float32)
    weight = (30 * np.random.default_rng(2).normal(size=(4, 3, 3, 3))).astype(np.float32)
    model = chain(
        ["batch", 3, 8, 8],
        ("Conv", [weight], {}),
        ("BatchNormalization", [one, 0 * one, 0 * one, 2e4 * one], {}),
    )
    with serving_net(tmp_path, model) as (server, client):
        huge = POSITIVE * np.float32(1e37)
        live = Caller((server, client), "net", huge)
        live.until(lambda: client.parity("net").live.checks["inconclusive"] >= 5, "it is sent often enough")
        assert np.isfinite(client.infer("net", huge)["y"]).any()
        assert client.parity("net").live.checks["breach"] == 0
        assert servable(server, "net").fallback is None


def test_the_reference_runs_without_the_runtimes_optimisation() -> None:
    """With it, a fold would be compared with a fold."""
    with watching(EXAMPLE_MODELS) as (server, _):
        shadow = servable(server, "digits").shadow
        assert shadow is not None
        session: Any = shadow._reference.open()
        options = session._session.get_session_options()
        assert str(options.graph_optimization_level).endswith("ORT_DISABLE_ALL")
        assert (options.intra_op_num_threads, options.enable_cpu_mem_arena) == (1, False)


def test_a_model_with_random_answers_is_not_compared(tmp_path: Path) -> None:
    model = chain(
        ["batch", 3, 8, 8],
        convolution(3),
        batch_norm(),
        ("RandomNormalLike", [], {"scale": 1.0}),  # type: ignore[dict-item]  # a float
    )
    with serving_net(tmp_path, model) as (server, client):
        caller = Caller((server, client), "net", POSITIVE)
        caller.until(lambda: client.parity("net").live.checks["error"] > 3, "checks fail")
        assert "answers differently each time" in client.parity("net").live.reference_failure
        assert servable(server, "net").fallback is None
