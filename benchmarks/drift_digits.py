"""Does drift tell real images from spoilt ones, and does recalibration bring the accuracy back?

The bundled model and the digits that it has never seen, spoilt in the ways in which inputs are spoilt.
Windows are drawn with replacement: those of clean images from one half of them, all others from the other
half, so that chance has its part, too. AUC is how often a spoilt window scores higher than a clean one: 1
always, ½ as chance has it. For recalibration one half is what the statistics are taken from, without its
labels, and the other what the accuracy is measured on.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from foldserve.parity.drift import DriftMonitor
from foldserve.parity.sections import unoptimised
from foldserve.parity.statistics import Statistics
from foldserve.parity.taps import tapped
from foldserve.runtime.session import Array
from foldserve.serving.model_file import read_model
from numpy.typing import NDArray
from scipy import ndimage

HERE = Path(__file__).parent
ROOT = HERE.parent
RESULT = HERE / "results" / "drift_digits.json"
MODEL = ROOT / "examples" / "models" / "digits" / "1"
DATA = ROOT / "examples" / "data" / "digits_test.npz"
FOLDSERVE = Path(sys.executable).with_name("foldserve")

WINDOWS = (64, 256)
DRAWS = 1000
"""Windows of each kind."""

Images = NDArray[np.float32]


def one_by_one(change: Callable[[Images], Array]) -> Callable[[Images], Array]:
    """A change of one picture [8, 8] made to every one of [n, 1, 8, 8]."""
    return lambda images: np.stack([change(image[0]) for image in images])[:, np.newaxis]


def noisy(deviation: float) -> Callable[[Images], Array]:
    """Gaussian noise on every pixel."""
    return lambda images: images + np.random.default_rng(0).normal(0, deviation, images.shape)


def blurred(deviation: float) -> Callable[[Images], Array]:
    """A Gaussian blur, in pixels."""
    return one_by_one(lambda image: ndimage.gaussian_filter(image, deviation))


def shifted(pixels: int) -> Callable[[Images], Array]:
    """To the right; paper comes in from the left."""
    return one_by_one(lambda image: np.pad(image, ((0, 0), (pixels, 0)))[:, :8])


def rotated(degrees: float) -> Callable[[Images], Array]:
    """About the middle, with linear interpolation."""
    return one_by_one(lambda image: ndimage.rotate(image, degrees, reshape=False, order=1))


SPOILT: dict[str, Callable[[Images], Array]] = {
    "inverted": lambda images: 1 - images,
    "not normalised (× 16)": lambda images: 16 * images,
    "dim (× 0.3 + 0.2)": lambda images: 0.3 * images + 0.2,
    "blurred, σ 0.5 pixels": blurred(0.5),
    "blurred, σ 1 pixel": blurred(1),
    "noisy, σ 0.05": noisy(0.05),
    "noisy, σ 0.1": noisy(0.1),
    "noisy, σ 0.2": noisy(0.2),
    "shifted by 1 pixel": shifted(1),
    "shifted by 2 pixels": shifted(2),
    "rotated by 10°": rotated(10),
    "rotated by 20°": rotated(20),
    "rotated by 90°": one_by_one(np.rot90),
}
"""Images in 0…1 to spoilt ones."""

RECALIBRATED = (
    "inverted",
    "not normalised (× 16)",
    "dim (× 0.3 + 0.2)",
    "blurred, σ 1 pixel",
    "noisy, σ 0.2",
    "shifted by 1 pixel",
    "rotated by 20°",
)


class Scorer:
    """The served path's taps: the tapped model without the runtime's optimisation, and a monitor."""

    def __init__(self, run: Callable[[Images], list[Array]], statistics: Statistics, images: Array) -> None:
        """Run all ``images`` once; windows are made of what came out for each."""
        taps = run(images.astype(np.float32))
        self._taps = [tap.reshape(len(images), -1) for tap in taps]
        self._statistics = statistics
        self._count = len(images)

    def scores(self, rows: int, seed: int) -> NDArray[np.float64]:
        """Mean, variance and their sum [DRAWS, 3] of windows of ``rows`` images."""
        generator = np.random.default_rng(seed)
        return np.array([self._score(generator.integers(0, self._count, rows)) for _ in range(DRAWS)])

    def _score(self, chosen: NDArray[np.int64]) -> tuple[float, float, float]:
        monitor = DriftMonitor(self._statistics, len(chosen))
        report = monitor.observe([tap[chosen].ravel() for tap in self._taps], len(chosen))
        assert report is not None
        overall = report.overall
        assert overall is not None
        return overall.mean, overall.variance, overall.mean + overall.variance


def auc(clean: NDArray[np.float64], spoilt: NDArray[np.float64]) -> list[float]:
    """Share of pairs of windows in which the spoilt one scores higher, for each measure."""
    higher = spoilt[:, np.newaxis] > clean[np.newaxis]
    return [float(share) for share in higher.mean(axis=(0, 1))]


def accuracy(model: Path, images: Array, labels: Array) -> float:
    """Share of the images that a model file reads right."""
    with unoptimised(read_model(model)) as session:
        (logits,) = session.run({"images": images.astype(np.float32)})
    return float((logits.argmax(axis=1) == labels).mean())


def telling(images: Images, labels: Array) -> dict[str, Any]:
    """Scores and AUC of every kind of image."""
    found = tapped(read_model(MODEL / "model.onnx"))
    assert found is not None
    model, statistics = found
    with unoptimised(model) as session:

        def run(shown: Images) -> list[Array]:
            return session.run({"images": shown}, statistics.outputs)

        clean = Scorer(run, statistics, images[::2])
        kinds = {"clean": images, **{name: change(images) for name, change in SPOILT.items()}}
        others = {name: Scorer(run, statistics, shown[1::2]) for name, shown in kinds.items()}
    rows: dict[str, Any] = {
        name: {"accuracy": accuracy(MODEL / "model.onnx", shown, labels), "windows": {}}
        for name, shown in kinds.items()
    }
    for size in WINDOWS:
        reference = clean.scores(size, seed=0)
        for name, scorer in others.items():
            scores = scorer.scores(size, seed=1)
            rows[name]["windows"][str(size)] = {
                "auc": dict(zip(("mean", "variance", "both"), auc(reference, scores), strict=True)),
                "mean": float(np.median(scores[:, 0])),
                "variance": float(np.median(scores[:, 1])),
            }
    return rows


def recalibration(images: Images, labels: Array) -> dict[str, Any]:
    """Accuracy on images that are spoilt, before and after ``foldserve recalibrate``."""
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(RECALIBRATED, start=2):
            spoilt = SPOILT[name](images).astype(np.float32)
            samples, new = Path(folder, f"{number}.npz"), Path(folder, "digits", str(number))
            np.savez(samples, images=spoilt[::2])
            command = [FOLDSERVE, "recalibrate", MODEL, "--inputs", samples, "-o", new]
            subprocess.run([str(part) for part in command], check=True, capture_output=True)
            shown = spoilt[1::2], labels[1::2]
            rows[name] = {
                "before": accuracy(MODEL / "model.onnx", *shown),
                "after": accuracy(new / "model.onnx", *shown),
                "clean_after": accuracy(new / "model.onnx", images[1::2], labels[1::2]),
            }
    return rows


def drift_table(rows: dict[str, Any]) -> str:
    """One row per kind of image."""
    cells = " | ".join(f"{size}: mean | variance | both" for size in WINDOWS)
    lines = [
        f"| images | accuracy | mean, × clean | variance, × clean | AUC, windows of {cells} |",
        "|---" * (4 + 3 * len(WINDOWS)) + "|",
    ]
    largest = str(max(WINDOWS))
    clean = rows["clean"]["windows"][largest]
    for name, row in rows.items():
        measured = row["windows"][largest]
        aucs = (value for size in row["windows"].values() for value in size["auc"].values())
        lines.append(
            f"| {name} | {row['accuracy']:.1%} | {measured['mean'] / clean['mean']:.1f} "
            f"| {measured['variance'] / clean['variance']:.1f} | {' | '.join(f'{auc:.2f}' for auc in aucs)} |"
        )
    return "\n".join(lines)


def recalibration_table(rows: dict[str, Any]) -> str:
    """One row per kind of image."""
    lines = ["| images | accuracy before | after recalibration | on clean images then |", "|---|---|---|---|"]
    lines += [
        f"| {name} | {row['before']:.1%} | {row['after']:.1%} | {row['clean_after']:.1%} |"
        for name, row in rows.items()
    ]
    return "\n".join(lines)


def fill(page: Path, tables: Sequence[tuple[str, str]]) -> None:
    """Put each table between its two marks."""
    text = page.read_text()
    for name, table in tables:
        begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
        before, rest = text.split(begin)
        text = before + begin + table + "\n" + end + rest.split(end)[1]
    page.write_text(text)


def main() -> None:
    """Measure, keep the result and write the README's tables."""
    with np.load(DATA) as data:
        images, labels = data["images"], data["labels"]
    result = {"telling": telling(images, labels), "recalibration": recalibration(images, labels)}
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    tables = [
        ("drift_digits", drift_table(result["telling"])),
        ("recalibration_digits", recalibration_table(result["recalibration"])),
    ]
    for _, table in tables:
        sys.stderr.write(f"{table}\n\n")
    fill(ROOT / "README.md", tables)


if __name__ == "__main__":
    main()
