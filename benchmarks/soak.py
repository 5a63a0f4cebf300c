"""Everything that callers do to a server, all at once, while its memory, files and threads are watched.

Ends with a verdict: in the second half of the time none of the three may grow, and nothing may have ended
otherwise than it was to. The result is in ``results/soak.json``, its picture in ``results/soak.svg``.
"""

import argparse
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from serving_harness import ALL_CORES, HERE, RESULTS, Process, foldserve, running, say
from soak_load import PASSING, STEADY, Act, Caller, Tally, repeat
from soak_plot import write

EXAMPLES = HERE.parent / "examples" / "models"
MINUTES = 10.0
SAMPLE_S = 1.0
WINDOWS = 30
"""Of the second half: a window's lowest value is what a leak would raise, whatever comes and goes."""

MEGABYTE = 1e6
MOST_GROWTH = {"rss_mb": 1.0, "files": 1.0, "threads": 1.0}
"""The most that each may grow in a minute."""

MESSAGE_BYTES = 1 << 20
PAGES = ("/metrics", "/", f"/models/{STEADY}/1", "/readyz")


@dataclass(frozen=True)
class Sample:
    """What a server uses at a moment, in seconds since the begin, and what it had answered until then."""

    at_s: float
    rss_mb: float
    files: int
    threads: int
    cpu_s: float
    acts: int


def look(server: Process, at_s: float, acts: int) -> Sample:
    """Look at a server through /proc."""
    folder = Path(f"/proc/{server.pid}")
    files, threads = (len(list((folder / name).iterdir())) for name in ("fd", "task"))
    return Sample(at_s, server.rss_bytes() / MEGABYTE, files, threads, server.cpu_s(), acts)


def growth_per_minute(samples: Sequence[Sample]) -> dict[str, float]:
    """How the lowest values of short windows grow in the second half, for each of ``MOST_GROWTH``."""
    half = samples[len(samples) // 2 :]
    windows = [list(one) for one in np.array_split(np.array(half, dtype=object), min(WINDOWS, len(half)))]
    minutes = [window[0].at_s / 60 for window in windows]
    lowest = {name: [min(getattr(one, name) for one in window) for window in windows] for name in MOST_GROWTH}
    return {name: float(np.polyfit(minutes, values, 1)[0]) for name, values in lowest.items()}


def complaints(growth: dict[str, float], unexpected: Sequence[str]) -> list[str]:
    """What is wrong; nothing if the server held out."""
    grown = [
        f"{name} grew by {growth[name]:.2f} in a minute; {most} would be fine"
        for name, most in MOST_GROWTH.items()
        if growth[name] > most
    ]
    return [*grown, *(f"unexpected: {one}" for one in unexpected)]


@contextmanager
def callers(server: Process, management: str, tally: Tally) -> Iterator[None]:
    """Everything at once, as long as the block."""
    caller = Caller(f"127.0.0.1:{server.port}", management, EXAMPLES / STEADY / "1" / "model.onnx")
    lists: list[tuple[Sequence[Act], float]] = [
        *[(caller.inferences(), 0.01)] * 2,
        (caller.impatience(), 0.02),
        (caller.streams(), 0.2),
        (caller.nonsense(), 0.02),
        (caller.questions(), 0.05),
        (caller.management(), 0.3),
        (caller.shared_memory(), 0.1),
        ([Act(f"GET {page}", _get(server, page)) for page in PAGES], 0.5),
    ]
    ended = threading.Event()
    threads = [threading.Thread(target=repeat, args=(acts, pause_s, tally, ended)) for acts, pause_s in lists]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        caller.close()


def _get(server: Process, page: str) -> Callable[[], object]:
    return lambda: server.http(page)


def soak(seconds: float) -> dict[str, Any]:
    """Run a server for so long under everything; what was seen."""
    tally, samples = Tally(), []
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        for model in (STEADY, PASSING):
            (folder / "models" / model).mkdir(parents=True)
            (folder / "models" / model / "1").symlink_to(EXAMPLES / STEADY / "1")
        management = f"unix:{folder}/management.sock"
        recipe = foldserve(
            folder / "models",
            *("--model-control", "explicit", "--load-models", STEADY, "--shared-memory"),
            *("--management-address", management, "--trace-file", str(folder / "traces")),
            *("--max-message-bytes", str(MESSAGE_BYTES), "--shadow-sample-rate", "0.1"),
        )
        with running([recipe], ALL_CORES) as (server,):
            server.wait_ready()
            began = time.monotonic()
            with callers(server, management, tally):
                while (at_s := time.monotonic() - began) < seconds:
                    samples.append(look(server, at_s, sum(tally.counts.values())))
                    if len(samples) % 60 == 1:
                        say(f"{samples[-1]}")
                    time.sleep(SAMPLE_S - (time.monotonic() - began) % SAMPLE_S)
    growth = growth_per_minute(samples)
    outcomes: dict[str, dict[str, int]] = {}
    for (act, code), count in sorted(tally.counts.items()):
        outcomes.setdefault(act, {})[code] = count
    return {
        "minutes": seconds / 60,
        "acts": sum(tally.counts.values()),
        "growth_per_minute": growth,
        "most_growth_per_minute": MOST_GROWTH,
        "unexpected": tally.unexpected,
        "complaints": complaints(growth, tally.unexpected),
        "outcomes": outcomes,
        "samples": [asdict(sample) for sample in samples],
    }


def main() -> None:
    """Soak, write the result and its picture; exit status 1 if there is anything to complain of."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder for the result and its picture")
    given = parser.parse_args()
    result = soak(60 * given.minutes)
    write(result, given.results)
    growth = ", ".join(f"{name} {value:+.2f}" for name, value in result["growth_per_minute"].items())
    say(f"{result['acts']} acts in {given.minutes:g} minutes; growth in a minute: {growth}")
    for complaint in result["complaints"]:
        say(complaint)
    sys.exit(bool(result["complaints"]))


if __name__ == "__main__":
    main()
