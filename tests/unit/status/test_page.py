"""The pages as text: well formed, bounded, and nothing foreign in them but as text."""

import math
from html.parser import HTMLParser
from typing import Any

import pytest
from foldserve.folding.report import BATCH_NORMALIZATION, FoldReport, FoldSite, Outcome, Reason
from foldserve.parity.drift import DriftReport, DriftScores, LayerDrift
from foldserve.parity.report import (
    BreachReport,
    LiveParity,
    OutputParity,
    ParityReport,
    ProbeSource,
    ProbesReport,
    Verdict,
)
from foldserve.runtime.tuning import Layout, Measurement, Tuning
from foldserve.serving.engine_choice import EngineReport, EngineTrial
from foldserve.serving.ladder import Variant
from foldserve.serving.lifecycle import State
from foldserve.serving.servable import Fallback
from foldserve.settings import ParityBudget, Precision, ProviderChoice
from foldserve.status.facts import (
    Batch,
    Calls,
    Durations,
    ModelFacts,
    ModelOverview,
    OutputHistory,
    ParityFacts,
    PeriodParity,
    ServableFacts,
    ServerFacts,
    ServiceOverview,
    Stage,
    Traffic,
)
from foldserve.status.page import StatusPages, model_page, needs_attention, server_page
from foldserve.status.words import long_time, on_scale, path_of, seconds

HOSTILE = "<script>alert('&')</script>\"><img src=x onerror=alert(1)>"
VOID = {"meta"}
SOME = Durations(count=3, mean=0.002, p50=0.001, p99=math.inf)
CALLS = (Calls(method="ModelInfer", codes={"OK": 3, "INVALID_ARGUMENT": 1}, duration=SOME),)


class Elements(HTMLParser):
    """Fails on tags that do not match; collects what could run, or fetch, something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.active: list[str] = []
        self.identities: list[str] = []
        self.text: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag in {"script", "img", "link", "iframe", "form"} or any(name.startswith("on") for name in named):
            self.active.append(tag)
        assert "src" not in named
        assert (named.get("href") or "/").startswith(("/", "#")), named
        if "id" in named:
            self.identities.append(named["id"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """``<path/>``"""

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def overview(name: str = "digits", **changes: Any) -> ModelOverview:
    service: dict[str, Any] = {
        "variant": "folded",
        "requested_provider": ProviderChoice.AUTO,
        "provider": "cpu",
        "batch_norms": 4,
        "batch_norms_folded": 4,
        "fallback": None,
        "parity_at_load": 3e-7,
        "parity_in_service": None,
        "within_budget": True,
        "checks": {"ok": 1, "breach": 0, "dropped": 0, "error": 0},
        "drift": None,
        "drift_baseline": None,
        "waiting": 0,
        "requests": 4,
        "failed": 1,
        "duration": SOME,
    }
    return ModelOverview(
        name=name,
        version=1,
        state=State.READY,
        reason="",
        service=ServiceOverview.model_validate(service | changes),
    )


def failed(name: str, reason: str) -> ModelOverview:
    return ModelOverview(name=name, version=None, state=State.FAILED, reason=reason, service=None)


def server(*models: ModelOverview, not_ready: str = "") -> ServerFacts:
    return ServerFacts(
        version="0.1.0",
        started=1.7e9,
        uptime_seconds=93784.0,
        not_ready=not_ready,
        models=models,
        calls=CALLS,
        shadow_cpu_seconds=1.5,
    )


def fallback(evidence: str) -> Fallback:
    return Fallback(
        since=1.7e9,
        reason="parity_breach",
        evidence=evidence,
        variant=Variant.UNFOLDED,
        engine="onnxruntime-cpu-float32",
        runtime_optimisation="all",
    )


def model(text: str, sites: int = 2, outputs: int = 1, layers: int = 3) -> ModelFacts:
    """A model version that has everything, with ``text`` wherever text comes from elsewhere."""
    budget = ParityBudget()
    parity = tuple(
        OutputParity(
            output=f"{text}{index}",
            relative_l2=math.inf,
            scaled_max=0.0,
            top1_agreement=0.5,
            mismatches=1,
            within_budget=False,
        )
        for index in range(outputs)
    )
    return ModelFacts(
        name=text,
        version=3,
        state=State.READY,
        reason=text,
        servable=ServableFacts(
            summary={
                "variant": "unfolded",
                "provider": "cpu",
                "provider_requested": "auto",
                "batchnorms": sites,
                "batchnorms_folded": 0,
                "hint": text,
                "batches": True,
            },
            fallback=fallback(text),
            fold=FoldReport(
                sites=tuple(
                    FoldSite(
                        name=f"{text}{index}",
                        operator=BATCH_NORMALIZATION,
                        outcome=Outcome.STAYED if index % 2 else Outcome.FOLDED,
                        reason=Reason.SHARED_VALUE if index % 2 else None,
                        tier=None if index % 2 else 1,
                        detail=text,
                        absorbed_by=(text,) * 5,
                        output="y",
                    )
                    for index in range(sites)
                ),
                stripped_biases=(),
                created_biases=(),
                operators_before={text: 2, "Conv": 1},
                operators_after={"Conv": 1},
                initializer_bytes_before=1000,
                initializer_bytes_after=900,
            ),
            engines=EngineReport(
                engine="onnxruntime-cpu-float32",
                trials=(
                    EngineTrial(engine="onnxruntime-cpu-float32", precision=Precision.FLOAT32, speedup=1.0),
                    EngineTrial(
                        engine="openvino-cpu-bfloat16",
                        precision=Precision.BFLOAT16,
                        speedup=5.9,
                        relative_l2=math.inf,
                        memory_bytes=12_300_000,
                    ),
                ),
                why_not={"openvino-cpu-bfloat16": text},
                advice=text,
            ),
            parity=ParityFacts(
                at_load=ParityReport(
                    verdict=Verdict.WITHIN_BUDGET,
                    explanation=text,
                    reference="original",
                    candidate="folded",
                    budget=budget,
                    outputs=parity,
                    probes=ProbesReport(source=ProbeSource.SYNTHETIC, seed=1, shapes=(), refused=()),
                ),
                live=LiveParity(
                    checks={"ok": 1, "breach": 2, "dropped": 3, "error": 4},
                    window_checks=3,
                    window_breaches=2,
                    most_breaches=3,
                    outputs=parity,
                    last_breach=BreachReport(at=1.7e9, evidence=text),
                    reference_bytes=0,
                    reference_failure=text,
                ),
                history=tuple(
                    OutputHistory(
                        output=one.output,
                        budget=budget,
                        period_seconds=60,
                        periods=tuple(
                            PeriodParity(
                                start=1.7e9 + 60 * minute, checks=1, relative_l2=value, scaled_max=0.0
                            )
                            for minute, value in enumerate((0.0, 3e-7, 0.5, math.inf) * 60)
                        ),
                    )
                    for one in parity
                ),
            ),
            drift=DriftReport(
                window_rows=256,
                windows=5,
                rows=1300,
                unusable_rows=0,
                layers=tuple(
                    LayerDrift(layer=f"{text}{index}", mean=0.1 * index, variance=3.0)
                    for index in range(layers)
                ),
                overall=DriftScores(mean=0.1, variance=3.0),
                baseline=DriftScores(mean=0.1, variance=0.0),
            ),
            drift_unavailable="",
            traffic=Traffic(
                calls=CALLS,
                stages=(Stage(name="queue", duration=SOME),),
                batches=(Batch(rows=8, runs=2, mean_seconds=0.001),),
                rows=16,
                runs=2,
                waiting=0,
                last_inference=1.7e9,
            ),
            tuning=Tuning(
                layout=Layout(instances=1, threads=1),
                most_rows=8,
                measurements=(Measurement(layout=Layout(instances=1, threads=1), rows=1, seconds=0.001),),
            ),
            load_stages={"loading": 0.1, "proving": 0.0},
        ),
    )


def test_foreign_text_stays_text() -> None:
    overviews = (failed(HOSTILE, HOSTILE), overview(HOSTILE, fallback=fallback(HOSTILE)))
    for page in (server_page(server(*overviews, not_ready=HOSTILE)), model_page(model(HOSTILE))):
        elements = Elements(page)
        assert elements.active == []
        assert HOSTILE in "".join(elements.text)
        assert len(elements.identities) == len(set(elements.identities))


def test_requests_for_unknown_models_count_too() -> None:
    text = " ".join("".join(Elements(server_page(server())).text).split())
    assert "4 requests for inference 1 of them failed" in text


def test_pages_without_anything_to_tell_are_well_formed() -> None:
    nothing = Durations(count=0, mean=None, p50=None, p99=None)
    page = server_page(server(overview(duration=nothing, parity_at_load=None, checks={})))
    assert "Needs attention" not in "".join(Elements(page).text)
    loading = ModelFacts(name="digits", version=1, state=State.LOADING, reason="", servable=None)
    assert "does not serve" in "".join(Elements(model_page(loading)).text)
    assert "There is no model here" in "".join(Elements(server_page(server())).text)


def test_pages_stay_small_whatever_there_is_to_tell() -> None:
    names = [f"{index:03d}-{'long' * 60}" for index in range(50)]
    models = [failed(name, "because " * 2000) for name in names] + [overview(name) for name in names]
    assert len(server_page(server(*models))) < 250_000
    large = model_page(model("name" * 10, sites=5000, outputs=50, layers=600))
    assert len(large) < 600_000
    assert "2200 more, in the JSON" in large


@pytest.mark.parametrize(
    ("one", "what"),
    [
        (overview(), ""),
        (failed("broken", "no model"), "failed to load"),
        (
            overview(fallback=fallback("far off")),
            "fell back to the unfolded model on onnxruntime-cpu-float32",
        ),
        (overview(within_budget=False), "parity is outside the budget"),
        (overview(variant="unfolded"), "the fold is not served"),
        (overview(drift=0.7), "the inputs are far from what it was trained on"),
    ],
)
def test_what_needs_attention_is_named(one: ModelOverview, what: str) -> None:
    assert needs_attention(one) == what
    assert ("Needs attention" in server_page(server(one))) == bool(what)


def _asked(target: str, accept: str = "*/*") -> tuple[str, str] | None:
    def of_model(name: str, _version: int | None) -> ModelFacts | None:
        return model(name) if name == "a b" else None

    pages = StatusPages(lambda: server(overview()), of_model)
    page = pages.answer(target, accept)
    return None if page is None else (page.content_type.partition(";")[0], page.body.decode())


def test_json_has_the_same_facts() -> None:
    for target, accept in (
        ("/?format=json", "text/html"),
        ("/", "application/json"),
        ("/?format=json&refresh=5", "*/*"),
    ):
        answer = _asked(target, accept)
        assert answer is not None
        assert answer[0] == "application/json"
        assert ServerFacts.model_validate_json(answer[1]) == server(overview())
    answer = _asked("/models/a%20b/3?format=json")
    assert answer is not None
    assert ModelFacts.model_validate_json(answer[1]).servable is not None


def test_a_browser_gets_html_and_only_what_asks_for_it_is_refreshed() -> None:
    page, refreshed = _asked("/", "text/html,application/json;q=0.9"), _asked("/?refresh=1")
    assert page is not None
    assert refreshed is not None
    assert (page[0], "http-equiv" in page[1]) == ("text/html", False)
    assert 'http-equiv="refresh" content="2"' in refreshed[1]


@pytest.mark.parametrize(
    "target",
    [
        "//",
        "/models",
        "/models/",
        "/models/x/y/z",
        "/models/a%20b/0",
        "/models/other/1",
        "/models/%00/1",
        "//[",
        "/?",
    ],
)
def test_there_are_pages_for_what_there_is_only(target: str) -> None:
    assert (_asked(target) is not None) == (target == "/?")


def test_the_path_of_a_model_is_one_segment() -> None:
    assert path_of("../a/b?c", 3) == "/models/..%2Fa%2Fb%3Fc/3"
    assert path_of("broken", None) == "/models/broken"


def test_numbers_are_written_for_people() -> None:
    assert [seconds(value) for value in (None, 0.00042, 3.14159, math.inf)] == [
        "–",
        "0.42 ms",
        "3.14 s",
        "> 10 s",
    ]
    assert [long_time(value) for value in (0.2, 59, 3600, 93784)] == ["0 s", "59 s", "1 h 0 min", "1 d 2 h"]
    assert [on_scale(value) for value in (0.0, 1e-4, 10.0, math.inf)] == [0, 0, 100, 100]
