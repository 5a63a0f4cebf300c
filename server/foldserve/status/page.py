"""The pages under ``/`` and ``/models/<name>/<version>``, for people or as JSON."""

import re
import time
from collections.abc import Callable
from urllib.parse import parse_qs, unquote

from pydantic import BaseModel

from foldserve.folding.report import FoldSite, Outcome
from foldserve.observability.http import HTML, JSON, Page
from foldserve.status import words
from foldserve.status.facts import ModelFacts, ModelOverview, OutputHistory, ServableFacts, ServerFacts
from foldserve.status.gather import INFERENCE
from foldserve.status.pictures import Picture, bars, over_time
from foldserve.templates import render

MODEL_PATH = re.compile(r"/models/([^/]+)(?:/([1-9][0-9]{0,17}))?/?")
REFRESH_S = (2, 3600)
"""Shortest and longest time between two refreshes that may be asked for, in seconds."""

MOST_SITES = 300
"""Sites, layers and outputs in one table; all of them are in the JSON."""

MOST_OUTPUTS = 6
"""Outputs with pictures."""

HIGH_DRIFT = 0.5
"""Average distance from training, in standard deviations, that somebody should know of."""


class StatusPages:
    """Answers for the HTTP server; ``server`` and ``model`` tell the facts as they are at each call."""

    def __init__(
        self,
        server: Callable[[], ServerFacts],
        model: Callable[[str, int | None], ModelFacts | None],
    ) -> None:
        self._server = server
        self._model = model

    def answer(self, target: str, accept: str) -> Page | None:
        """The page for a request target and an ``Accept`` header; None where there is no such page.

        ``?format=json`` asks for JSON as well, ``?refresh=10`` for a page that loads itself anew.
        """
        path, _, parameters = target.partition("?")
        query = parse_qs(parameters)
        as_json = query.get("format") == ["json"] or ("format" not in query and _prefers_json(accept))
        refresh_s = _refresh_s(query.get("refresh", [""])[0])
        if path == "/":
            server = self._server()
            return _json(server) if as_json else _html(server_page(server, refresh_s))
        match = MODEL_PATH.fullmatch(path)
        if match is None:
            return None
        model = self._model(unquote(match[1]), int(match[2]) if match[2] else None)
        if model is None:
            return None
        return _json(model) if as_json else _html(model_page(model, refresh_s))


def server_page(server: ServerFacts, refresh_s: int | None = None) -> str:
    """The overview as HTML."""
    inferences = [one for one in server.calls if one.method in INFERENCE]
    return render(
        "server.html.j2",
        server=server,
        requests=sum(one.count for one in inferences),
        failed=sum(one.failed for one in inferences),
        now=server.started + server.uptime_seconds,
        attention=[(one, what) for one in server.models if (what := needs_attention(one))],
        words=words,
        refresh_s=refresh_s,
        path="/",
    )


def model_page(model: ModelFacts, refresh_s: int | None = None) -> str:
    """One model version as HTML."""
    servable, now = model.servable, time.time()
    return render(
        "model.html.j2",
        model=model,
        now=now,
        servable=servable,
        parity_pictures=_parity_pictures(servable, now) if servable is not None else [],
        drift_pictures=_drift_pictures(servable) if servable is not None else [],
        stayed=_sites(servable, Outcome.STAYED),
        folded=_sites(servable, Outcome.FOLDED),
        operators=_operators(servable) if servable is not None else [],
        most=MOST_SITES,
        words=words,
        refresh_s=refresh_s,
        path=words.path_of(model.name, model.version),
    )


def needs_attention(model: ModelOverview) -> str:
    """What somebody should look at, in a few words; empty where everything is as it should be."""
    service = model.service
    if service is None:
        return "failed to load" if model.state == "FAILED" else ""
    if service.fallback is not None:
        return f"fell back to the {service.fallback.variant} model on {service.fallback.engine}"
    if not service.within_budget:
        return "parity is outside the budget"
    if service.variant == "unfolded":
        return "the fold is not served"
    if service.drift is not None and service.drift > HIGH_DRIFT:
        return "the inputs are far from what it was trained on"
    return "not brought up to date" if model.reason else ""


def _parity_pictures(
    servable: ServableFacts, now: float
) -> list[tuple[OutputHistory, list[tuple[str, Picture]]]]:
    return [
        (
            history,
            [
                (
                    name,
                    over_time(
                        [(one.start, getattr(one, measure)) for one in history.periods],
                        now,
                        getattr(history.budget, measure),
                        f"{name} of output {history.output} over time, on a logarithmic scale",
                    ),
                )
                for name, measure in (("relative L2", "relative_l2"), ("scaled max", "scaled_max"))
            ],
        )
        for history in servable.parity.history[:MOST_OUTPUTS]
    ]


def _drift_pictures(servable: ServableFacts) -> list[tuple[str, Picture]]:
    drift = servable.drift
    if drift is None or not drift.layers:
        return []
    return [
        (
            text,
            bars(
                [(layer.layer, getattr(layer, measure)) for layer in drift.layers],
                getattr(drift.baseline, measure) if drift.baseline is not None else None,
                f"drift of the {measure} of each BatchNorm's input, in the order of the model",
            ),
        )
        for measure, text in (
            ("mean", "mean: distance in standard deviations"),
            ("variance", "variance: logarithm of the ratio"),
        )
    ]


def _sites(servable: ServableFacts | None, outcome: Outcome) -> list[FoldSite]:
    return [site for site in servable.fold.sites if site.outcome is outcome] if servable is not None else []


def _operators(servable: ServableFacts) -> list[tuple[str, int, int]]:
    """Operator, number before and after; those that changed first."""
    before, after = servable.fold.operators_before, servable.fold.operators_after
    counts = [(name, before.get(name, 0), after.get(name, 0)) for name in sorted({*before, *after})]
    return sorted(counts, key=lambda count: count[1] == count[2])


def _prefers_json(accept: str) -> bool:
    return "application/json" in accept and "text/html" not in accept


def _refresh_s(text: str) -> int | None:
    least, most = REFRESH_S
    return min(max(int(text), least), most) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _html(text: str) -> Page:
    return Page(200, HTML, text.encode())


def _json(facts: BaseModel) -> Page:
    return Page(200, JSON, facts.model_dump_json(indent=2).encode())
