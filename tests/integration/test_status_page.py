"""The status page of a real server, asked over HTTP and looked at with a real browser."""

import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from browser import Browser, browsing, needs_chromium
from foldserve.server import Server
from foldserve.status.facts import ModelFacts, ServerFacts
from foldserve_client import Client
from planted import plant_a_wrong_fold
from running import EXAMPLE_DATA, EXAMPLE_MODELS, of_digits, scraped, serving

BROKEN = "<b>broken & its long name that goes on and on"
SHADOW = {"sample_rate": 1.0, "window": 20, "breaches": 3, "drift_window": 64}
PAGES = {"overview": "/", "fallback": "/models/digits/1", "failed": f"/models/{quote(BROKEN)}/1"}

CONTRASTS = """
(() => {
  const rgb = (text) => text.match(/[\\d.]+/g).map(Number);
  const lightness = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((c) => c / 255)
      .map((c) => c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = rgb(getComputedStyle(one).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("svg")) continue;
    const [light, dark] = [rgb(getComputedStyle(element).color), behind(element)]
      .map(lightness).sort((one, other) => other - one);
    found.push([(light + 0.05) / (dark + 0.05), walker.currentNode.data.trim()]);
  }
  return found.sort((one, other) => one[0] - other[0]);
})()
"""
"""The contrast of every text with what is behind it (WCAG 2), the worst first."""


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose one model fell back after requests, and whose other one did not load."""
    repository = tmp_path_factory.mktemp("models")
    (repository / BROKEN / "1").mkdir(parents=True)
    (repository / BROKEN / "1" / "model.onnx").write_bytes(b"no model")
    (repository / "digits").symlink_to(EXAMPLE_MODELS / "digits")
    with np.load(EXAMPLE_DATA / "digits_test.npz") as data:
        images = data["images"]
    with (
        serving(repository, shadow=SHADOW, shadow_cpu_share=1.0) as server,
        Client(f"127.0.0.1:{server.grpc_port}") as client,
    ):
        deadline = time.monotonic() + 60
        while not client.drift("digits").drift.HasField("overall"):
            assert time.monotonic() < deadline, "drift is scored"
            client.infer("digits", {"images": images[:8]})
        plant_a_wrong_fold(server)
        while not client.parity("digits").HasField("fallback"):
            assert time.monotonic() < deadline, "the unfolded model takes over"
            client.infer("digits", {"images": images[:8]})
        yield server


@pytest.fixture
def url(watched: Server) -> str:
    return f"http://127.0.0.1:{watched.http_port}"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as browser:
        yield browser


def _get(url: str, accept: str = "*/*") -> bytes:
    with urllib.request.urlopen(
        urllib.request.Request(url, headers={"Accept": accept}), timeout=10
    ) as answer:
        body: bytes = answer.read()
        return body


def test_json_tells_of_the_server_and_each_model(watched: Server, url: str) -> None:
    server = ServerFacts.model_validate_json(_get(url, "application/json"))
    assert [(one.name, one.state) for one in server.models] == [(BROKEN, "FAILED"), ("digits", "READY")]
    service = server.models[1].service
    assert service is not None
    assert service.fallback is not None
    assert (service.variant, service.batch_norms, service.batch_norms_folded) == ("unfolded", 4, 0)
    assert service.requests == service.duration.count > 8
    (calls,) = (one for one in server.calls if one.method == "ModelInfer")
    assert calls.codes == {"OK": service.requests}


def test_json_of_a_model_agrees_with_its_metrics(watched: Server, url: str) -> None:
    model = ModelFacts.model_validate_json(_get(f"{url}/models/digits?format=json"))
    servable = model.servable
    assert servable is not None
    assert servable.drift is not None
    assert servable.drift.overall is not None
    samples = scraped(watched)
    assert samples[of_digits("foldserve_inference_count_total")] == servable.traffic.rows
    assert sum(batch.rows * batch.runs for batch in servable.traffic.batches) == servable.traffic.rows
    assert samples[of_digits("foldserve_drift_overall", measure="mean")] == servable.drift.overall.mean
    assert servable.parity.live is not None
    (history,) = servable.parity.history
    compared = servable.parity.live.checks["ok"] + servable.parity.live.checks["breach"]
    assert sum(period.checks for period in history.periods) == compared
    assert max(period.relative_l2 for period in history.periods) > history.budget.relative_l2
    stages = {stage.name: stage.duration for stage in servable.traffic.stages}
    assert (
        stages["compute_infer, unfolded"].count + stages["compute_infer, folded"].count
        == stages["queue"].count
    )


def test_nothing_is_told_of_what_there_is_not(url: str) -> None:
    for path in ("/models/other", "/models/digits/2", "/favicon.ico"):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            _get(url + path)
        with refusal.value:
            assert refusal.value.code == 404


def test_pages_wait_for_no_load_and_no_check(watched: Server, url: str) -> None:
    shadow = watched._manager.servable("digits").shadow
    assert shadow is not None
    with shadow.breaker._lock, watched._manager._models["digits"].lock:
        for path in PAGES.values():
            assert b"</html>" in _get(url + path)


@needs_chromium
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 360], ids=["desktop", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_a_page_fits_and_can_be_read(browser: Browser, url: str, page: str, width: int, dark: bool) -> None:
    browser.show(url + PAGES[page], width=width, dark=dark)
    assert browser.run("innerWidth") == browser.run("document.documentElement.scrollWidth") == width
    assert browser.run("matchMedia('(prefers-color-scheme: dark)').matches") == dark
    worst, text = browser.run(CONTRASTS)[0]
    assert worst >= 4.5, text
    assert browser.complaints == []


@needs_chromium
def test_what_went_wrong_is_said_first_and_leads_to_its_page(browser: Browser, url: str) -> None:
    browser.show(url)
    first = "document.querySelector('section.alert')"
    assert browser.run(f"{first}.innerText").splitlines() == [
        "Needs attention",
        f"{BROKEN}, version 1: failed to load",
        "digits, version 1: fell back to the unfolded model on onnxruntime-cpu-float32",
    ]
    assert browser.run("document.querySelectorAll('.models b, script, img').length") == 0
    browser.show(browser.run(f"[...{first}.querySelectorAll('a')].pop().href"))
    said = browser.run(f"{first}.innerText")
    assert "The unfolded model on onnxruntime-cpu-float32 answers since" in said
    assert "'logits': relative L2" in said
    assert "foldserve-client reset digits" in said


@needs_chromium
def test_pictures_are_told_to_those_who_cannot_see_them(browser: Browser, url: str) -> None:
    browser.show(url + PAGES["fallback"])
    pictures = {name for role, name in browser.names() if role == "image"}
    assert {
        "relative L2 of output logits over time, on a logarithmic scale",
        "scaled max of output logits over time, on a logarithmic scale",
        "drift of the mean of each BatchNorm's input, in the order of the model",
        "drift of the variance of each BatchNorm's input, in the order of the model",
    } <= pictures
    headings = browser.run("[...document.querySelectorAll('h1, h2, h3')].map(one => +one.tagName[1])")
    assert headings[0] == 1
    assert all(lower <= upper + 1 for upper, lower in pairwise(headings))
    assert browser.run("document.querySelectorAll('th:not([scope])').length") == 0
    assert browser.run("document.querySelectorAll('.plot .stem').length") == 2, "breaches have a stem"


@needs_chromium
def test_pages_can_be_used_by_keyboard(browser: Browser, url: str) -> None:
    browser.show(url)
    browser.press("Tab")
    assert browser.run("document.activeElement.innerText") == "Skip to the content"
    assert browser.run("document.activeElement.getBoundingClientRect().left") >= 0
    browser.press("Tab")
    assert browser.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"


@needs_chromium
def test_a_server_without_models_says_so(browser: Browser, tmp_path: Path) -> None:
    with serving(tmp_path, model_control="explicit") as server:
        browser.show(f"http://127.0.0.1:{server.http_port}/", width=360, dark=True)
        assert "There is no model here" in browser.run("document.body.innerText")
        assert browser.run("document.documentElement.scrollWidth") == 360
