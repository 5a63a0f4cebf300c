"""A server and the models asked of it, ready to be put under load, and one measurement of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from foldserve_client.client import Client
from foldserve_client.errors import ClientError
from foldserve_client.load import scrape
from foldserve_client.load.data import Shapes, file_requests, random_requests
from foldserve_client.load.errors import LoadTestError
from foldserve_client.load.levels import Step
from foldserve_client.load.live import Watcher
from foldserve_client.load.messages import Messages, serialize
from foldserve_client.load.mix import Share
from foldserve_client.load.recording import Outcomes, Recorder, interval_s
from foldserve_client.load.report import StepResult, step_result
from foldserve_client.load.target import Target
from foldserve_client.load.worker import Finished, Pool


@dataclass(frozen=True)
class Inputs:
    """What the requests hold."""

    rows: int = 1
    shapes: Shapes | None = None
    files: Mapping[str, Path] | None = None
    """By model; the empty name is for every model without its own, and no file means random values."""

    def file(self, model: str) -> Path | None:
        """Where a model's inputs come from."""
        files = self.files or {}
        return files.get(model, files.get(""))


@dataclass(frozen=True)
class Effort:
    """What the generator may use."""

    processes: int = 1
    connections: int = 1
    timeout_s: float = 10.0


class Side:
    """One server under load: its generator processes and its metrics; a context manager."""

    def __init__(
        self,
        target: Target,
        shares: Sequence[Share],
        inputs: Inputs,
        effort: Effort,
        metrics_url: str | None = None,
    ) -> None:
        """Read the models' metadata, make the requests and start the processes.

        Without ``metrics_url`` the server's metrics are looked for where foldserve has them. Raises
        LoadTestError where the server, a model or an input is not as it should be.
        """
        self.target = target
        self.shares = tuple(shares)
        try:
            with target.client() as client:
                self.server = _server_name(client)
                self.messages = [_messages(client, share, inputs) for share in shares]
        except ClientError as error:
            raise LoadTestError(f"{target}: {error}") from None
        self._metrics_url = metrics_url or _likely_metrics(target)
        self._metrics_must_be_there = metrics_url is not None
        self._pool = Pool(
            target,
            self.messages,
            processes=effort.processes,
            connections=effort.connections,
            timeout_s=effort.timeout_s,
        )

    def measure(self, step: Step, watcher: Watcher, label: str = "") -> StepResult:
        """Run a step to its end and sum it up."""
        watcher.begin(step, label)
        before = self._scrape()
        recorder = Recorder(step, len(self.shares), self._pool.size, interval_s(step.end_s))
        failures: dict[int, str] = {}
        for report in self._pool.run(step):
            if isinstance(report, Finished):
                failures = report.failures | failures
                continue
            outcomes = Outcomes.read(report.outcomes)
            recorder.add(report.worker, report.at_s, report.cpu_s, outcomes)
            recorder.add_lags(report.lags)
            watcher.see(report.at_s, outcomes)
        recorder.finish()
        models = [share.model for share in self.shares]
        view, parity = None, list[scrape.Parity]()
        after = self._scrape() if before is not None else None
        if before is not None and after is not None:
            view = scrape.server_view(before, after, models)
            if view is not None and view.requests < recorder.codes[0]:
                view = None  # these are the metrics of another server
            parity = scrape.parity(before, after, models) if view is not None else []
        mix = [(share, own.mean_bytes) for share, own in zip(self.shares, self.messages, strict=True)]
        return step_result(recorder, mix, failures, view, parity)

    def _scrape(self) -> scrape.Samples | None:
        """The server's metrics; None where they are not where they usually are."""
        if self._metrics_url is None:
            return None
        try:
            return scrape.fetch(self._metrics_url)
        except LoadTestError:
            if self._metrics_must_be_there:
                raise
            self._metrics_url = None  # nor will they be there at the next step; looking may take seconds
            return None

    def close(self) -> None:
        """End the processes."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()


def _server_name(client: Client) -> str:
    told = client.server_metadata()
    return f"{told.name} {told.version}".strip() or "unknown"


def _messages(client: Client, share: Share, inputs: Inputs) -> Messages:
    metadata = client.model_metadata(share.model, version=share.version)
    metadata.name = share.model  # what the server must find it by, whatever it calls it
    file = inputs.file(share.model)
    requests = (
        random_requests(metadata, inputs.shapes or {}, inputs.rows)
        if file is None
        else file_requests(metadata, file, inputs.rows)
    )
    return serialize(share, metadata, requests)


def _likely_metrics(target: Target) -> str | None:
    """Where one server's metrics are if nobody says; those of one of several would tell of a part."""
    return scrape.default_url(target.addresses) if isinstance(target.addresses, str) else None
