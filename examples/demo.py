"""The main job on real input: start a server, send it handwritten digits, show what it did, stop it.

Run by ``make demo``. Exit status 0 only if the digits were read well and the server stopped cleanly.
"""

import json
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
from foldserve_client import Client, display
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

EXAMPLES = Path(__file__).resolve().parent
MODELS = ("digits", "digits_pt2")
REQUIRED_ACCURACY = 0.98
SINGLE_REQUESTS = 200
SHOWN_METRICS = (
    "foldserve_provider_info{",
    "foldserve_batchnorms{",
    "foldserve_biases_stripped{",
    "foldserve_parity_relative_l2{",
    "foldserve_inference_count_total{",
    "foldserve_requests_total{",
)

console = Console()


class ServerProcess:
    """``foldserve serve`` on free ports, which its own log tells."""

    def __init__(self, repository: Path) -> None:
        command = [sys.executable, "-m", "foldserve", "serve", "--repository", str(repository)]
        options = ["--host", "127.0.0.1", "--grpc-port", "0", "--http-port", "0", "--log-format", "json"]
        options += ["--management-address", "127.0.0.1:0"]
        self._process = subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True)
        self.grpc_port = self.http_port = 0

    def wait_until_ready(self) -> None:
        """Follow the log to the line that says ready, telling what is loaded on the way."""
        assert self._process.stderr is not None
        with console.status("starting the server: import, fold, prove ..."):
            for line in self._process.stderr:
                record = json.loads(line)
                match record["event"]:
                    case "listening":
                        self.grpc_port, self.http_port = record["grpc_port"], record["http_port"]
                    case "model ready":
                        console.print(f"[green]✓[/] {record['model']} loaded in {record['load_seconds']} s")
                    case "model failed to load":
                        console.print(f"[red]✗[/] {record['model']}: {record['reason']}")
                    case "ready":
                        return
        raise SystemExit(f"the server ended with exit status {self._process.wait()} before it was ready")

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=60)
        return self._process.returncode


def main() -> int:
    """Run the demo; 0 if everything was as it should be."""
    with np.load(EXAMPLES / "data" / "digits_test.npz") as data:
        images, labels = data["images"], data["labels"]
    server = ServerProcess(EXAMPLES / "models")
    try:
        server.wait_until_ready()
        with Client(f"localhost:{server.grpc_port}") as client:
            accuracy = show_accuracy(client, images, labels)
            for model in MODELS:
                console.rule(f"{model}: what was folded, and the proof")
                console.print(display.fold_report(client.fold_report(model)))
                console.print(display.parity(client.parity(model)))
            show_latency(client, images)
        show_metrics(server.http_port)
    finally:
        status = server.stop()
    console.rule()
    console.print(f"server stopped with exit status {status}")
    return 0 if accuracy >= REQUIRED_ACCURACY and status == 0 else 1


def show_accuracy(client: Client, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Send all held-out images to each model; the lowest accuracy."""
    table = Table(title=f"{len(images)} handwritten digits that the model has never seen")
    for column in ("model", "read correctly", "accuracy"):
        table.add_column(column)
    accuracies = []
    for model in MODELS:
        correct = int((client.infer(model, images).output.argmax(axis=1) == labels).sum())
        accuracies.append(correct / len(labels))
        table.add_row(model, f"{correct} of {len(labels)}", f"{accuracies[-1]:.2%}")
    console.print(table)
    return min(accuracies)


def show_latency(client: Client, images: NDArray[np.float32]) -> None:
    """One image per request, one request at a time."""
    milliseconds = []
    for index in track(range(SINGLE_REQUESTS), "single images", console=console, transient=True):
        started = time.perf_counter()
        client.infer(MODELS[0], images[index : index + 1])
        milliseconds.append((time.perf_counter() - started) * 1e3)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    console.rule("latency and metrics")
    console.print(f"{SINGLE_REQUESTS} requests of one image each: p50 {p50:.2f} ms, p99 {p99:.2f} ms")


def show_metrics(http_port: int) -> None:
    """A few lines of what Prometheus would scrape."""
    with urllib.request.urlopen(f"http://localhost:{http_port}/metrics", timeout=10) as answer:
        lines = answer.read().decode().splitlines()
    for line in lines:
        if line.startswith(SHOWN_METRICS):
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
