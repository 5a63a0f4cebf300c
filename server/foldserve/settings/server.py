"""What the server can be told, and how a model's settings are laid over it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import Field, PositiveInt, field_validator, model_validator

from foldserve.settings.addresses import PUBLIC, host_and_port, socket_path
from foldserve.settings.choices import LogFormat, LogLevel, ModelControl, ProviderChoice
from foldserve.settings.model import ModelDefaults, ModelSettings


class ServerSettings(ModelDefaults):
    """Everything ``foldserve serve`` can be told; each field is a flag and a ``FOLDSERVE_*`` variable."""

    repository: tuple[Path, ...] = Field(min_length=1)
    """Model repositories: folders that hold ``<model>/<version>/model.onnx``; with commas in a variable."""

    model_control: ModelControl = ModelControl.NONE
    """``none`` loads all at start, ``poll`` also follows changes, ``explicit`` loads what RPCs ask for."""

    poll_interval_s: float = Field(default=15.0, gt=0)
    """Time between two looks at the repositories in mode ``poll``, in seconds."""

    load_models: tuple[str, ...] = ()
    """Models that mode ``explicit`` loads at start, ``*`` for all; with commas in a variable."""

    load_threads: PositiveInt = 2
    """Models that are loaded at the same time."""

    host: str = "0.0.0.0"
    """Address that gRPC listens on, and HTTP unless it has its own."""

    grpc_port: int = Field(default=8001, ge=0, le=65535)
    """Port for gRPC; 0 picks a free one."""

    http_port: int = Field(default=8002, ge=0, le=65535)
    """Port for the status page, /metrics, /livez and /readyz; 0 picks a free one."""

    http_host: str | None = Field(default=None, json_schema_extra={"unset": "host"})
    """Address that HTTP listens on."""

    management_address: str = "127.0.0.1:8003"
    """Where the server is managed: ``host:port``, ``unix:/path``, or ``public`` for the public port."""

    tls_cert_file: Path | None = None
    """Certificate and chain (PEM) that gRPC shows its callers; unset, it is spoken in clear text."""

    tls_key_file: Path | None = None
    """Private key of the certificate (PEM, not encrypted)."""

    tls_client_ca_file: Path | None = None
    """Authorities (PEM) that callers' own certificates must come from; unset, callers need none."""

    token_file: Path | None = None
    """Bearer tokens and their rights (YAML); unset, whoever reaches a port may call all of it."""

    grpc_workers: int = Field(default=256, ge=1)
    """Requests that the server holds at once, waiting ones included; further ones are refused."""

    max_streams: int = Field(default=32, ge=0)
    """Streams (ModelStreamInfer) at once; further ones are refused. They come on top of ``grpc_workers``."""

    max_stream_requests: int = Field(default=16, ge=1)
    """Requests of one stream in work, or answered but unread; the next is read when one of them is done."""

    shared_memory: bool = False
    """Whether callers on this machine may pass tensors in shared memory; only for callers that you trust."""

    max_message_bytes: int = Field(default=256 * 1024 * 1024, ge=1024, le=2**31 - 1)
    """Largest gRPC message accepted or sent, in bytes."""

    max_connection_age_s: float | None = Field(default=None, ge=1)
    """Age at which callers are told to connect anew, in seconds, so that they spread; unset: never."""

    import_timeout_s: float = Field(default=600.0, gt=0)
    """Longest a child process may take to import a ``.pt2``, or to run a model first, in seconds."""

    import_memory_bytes: int = Field(default=32 * 1024**3, ge=1024**3)
    """Most address space that a ``.pt2`` import may take, in bytes."""

    cache_dir: Path = Field(default=Path("~/.cache/foldserve"), validate_default=True)
    """Folder where imported and folded models are kept, by content, for the next start."""

    cache_max_bytes: int = Field(default=50 * 1024**3, ge=0)
    """Most that the cache may hold, in bytes; what was used longest ago goes first."""

    shadow_cpu_share: float = Field(default=0.05, gt=0)
    """CPU time that comparing with unfolded models may take, all models together, as a share of one core."""

    breach_dir: Path | None = None
    """Folder where inputs that broke parity are kept with both answers, as ``.npz``; unset, none are."""

    breach_max_files: PositiveInt = 16
    """Most files that are kept there; then no more are written."""

    breach_max_bytes: int = Field(default=256 * 1024**2, ge=0)
    """Most bytes that these files may take together."""

    not_ready_delay_s: float = Field(default=0.0, ge=0)
    """Time at shutdown between telling balancers "not ready" and refusing requests, in seconds."""

    drain_timeout_s: float = Field(default=30.0, ge=0)
    """Longest that requests in flight may take to finish at shutdown, in seconds."""

    log_format: LogFormat = LogFormat.AUTO
    """``auto`` writes for people on a terminal and JSON elsewhere."""

    log_level: LogLevel = LogLevel.INFO
    """The least severe log line that is written."""

    trace_file: Path | None = None
    """File that traces of requests are added to, once TraceSetting asks for them; unset, there are none."""

    otlp_endpoint: str | None = Field(default=None, pattern="^https?://")
    """Where OpenTelemetry's spans are sent, by OTLP over gRPC: ``http://localhost:4317``; unset: nowhere."""

    otlp_sample_rate: float = Field(default=0.01, ge=0, le=1)
    """Share of inferences that are traced there where the caller does not say whether they should be."""

    @field_validator("repository", "load_models", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """One may be given by itself."""
        return (value,) if isinstance(value, str | Path) else value

    @field_validator("management_address")
    @classmethod
    def _an_address(cls, value: str) -> str:
        if value != PUBLIC and socket_path(value) is None:
            host_and_port(value)
        return value

    @field_validator(
        "repository",
        "cache_dir",
        "breach_dir",
        "trace_file",
        "tls_cert_file",
        "tls_key_file",
        "tls_client_ca_file",
        "token_file",
    )
    @classmethod
    def _at_home(cls, value: tuple[Path, ...] | Path | None) -> tuple[Path, ...] | Path | None:
        """``~`` stands for the home folder of whoever runs the server."""
        if isinstance(value, tuple):
            return tuple(_expanded(path) for path in value)
        return None if value is None else _expanded(value)

    @model_validator(mode="after")
    def _contradictions(self) -> Self:
        """Refuse settings that cannot hold together, by both names."""
        folders = [path.resolve() for path in self.repository]
        for path, folder in zip(self.repository, folders, strict=True):
            if folders.count(folder) > 1:
                raise ValueError(f"repository has {path} twice, in whatever spelling; leave one out")
        if self.grpc_port and self.grpc_port == self.http_port:
            raise ValueError(f"grpc_port and http_port are both {self.grpc_port}; each needs its own")
        self._security_contradictions()
        if self.instances is not None and self.instances > self.grpc_workers:
            raise ValueError(
                f"instances is {self.instances} and grpc_workers {self.grpc_workers}: no more instances than "
                f"requests at once can ever run; raise grpc_workers"
            )
        for setting, mode in (("load_models", ModelControl.EXPLICIT), ("poll_interval_s", ModelControl.POLL)):
            if setting in self.model_fields_set and self.model_control is not mode:
                raise ValueError(
                    f"{setting} is given, but model_control is '{self.model_control}'; set it to '{mode}'"
                )
        if "otlp_sample_rate" in self.model_fields_set and self.otlp_endpoint is None:
            raise ValueError("otlp_sample_rate is given, but otlp_endpoint is not; set both or none")
        at_once = self.grpc_workers + self.max_streams * self.max_stream_requests
        if "max_queue_size" in self.model_fields_set and self.max_queue_size > at_once:
            raise ValueError(
                f"max_queue_size is {self.max_queue_size}, but no more than {at_once} requests are ever "
                f"in the server (grpc_workers + max_streams * max_stream_requests); lower it, or raise those"
            )
        if self.provider is ProviderChoice.CPU and "cudnn_search" in self.model_fields_set:
            raise ValueError(
                f"cudnn_search is {self.cudnn_search}, but provider is cpu and cuDNN runs on CUDA; "
                f"leave one out"
            )
        return self

    def _security_contradictions(self) -> None:
        address = self.management_address
        if address != PUBLIC and socket_path(address) is None:
            for setting, port in (("grpc_port", self.grpc_port), ("http_port", self.http_port)):
                if port and host_and_port(address)[1] == port:
                    raise ValueError(
                        f"management_address is {address} and {setting} {port}; each needs its own port"
                    )
        if (self.tls_cert_file is None) is not (self.tls_key_file is None):
            there, missing = "tls_cert_file", "tls_key_file"
            if self.tls_cert_file is None:
                there, missing = missing, there
            raise ValueError(f"{there} is given, but {missing} is not; set both or none")
        if self.tls_client_ca_file is not None and self.tls_cert_file is None:
            raise ValueError(
                "tls_client_ca_file is given, but tls_cert_file is not: callers show certificates over TLS "
                "only; set tls_cert_file and tls_key_file, too"
            )


def model_settings(server: ServerSettings, *given: Mapping[str, Any]) -> ModelSettings:
    """The settings of one model: what is ``given``, the later over the earlier; the rest is the server's.

    Raises pydantic's ``ValidationError``.
    """
    # What nobody set stays unset: some defaults depend on the model.
    values = server.model_dump(include=set(ModelDefaults.model_fields), exclude_unset=True)
    for layer in given:
        values = _laid_over(values, layer)
    return ModelSettings.model_validate(values)


def _laid_over(lower: Mapping[str, Any], upper: Mapping[str, Any]) -> dict[str, Any]:
    both = {
        name: _laid_over(lower[name], value)
        for name, value in upper.items()
        if isinstance(value, Mapping) and isinstance(lower.get(name), Mapping)
    }
    return {**lower, **upper, **both}


def _expanded(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"{path}: there is no home folder for ~ here; give the whole path") from None
