"""Structured log lines: for people on a terminal, JSON elsewhere. All go to standard error."""

import logging
import sys
from contextlib import suppress
from dataclasses import dataclass
from typing import cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from foldserve.settings import LogFormat, LogLevel


@dataclass(frozen=True)
class LogSettings:
    """Which log lines are written, and how."""

    format: LogFormat
    levels: frozenset[LogLevel]


class _Lines(structlog.WriteLogger):
    """Writes each line in one piece; one that nobody can take (a closed pipe, a full disk) is lost."""

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):  # ValueError: the file object was closed
            super().msg(message)

    debug = info = warning = error = critical = msg


_settings = LogSettings(LogFormat.AUTO, frozenset(LogLevel))
_debugs = False


def log_settings() -> LogSettings:
    """What holds for this process."""
    return _settings


def debugs() -> bool:
    """Whether lines for debugging are written: to ask costs next to nothing, a line that is not does not."""
    return _debugs


def configure_logging(log_format: LogFormat, level: LogLevel) -> None:
    """Set format and least level of every log line of this process."""
    ascending = list(LogLevel)
    apply_log_settings(LogSettings(log_format, frozenset(ascending[ascending.index(level) :])))


def apply_log_settings(settings: LogSettings) -> None:
    """Let exactly the lines of these levels be written from now on."""
    global _settings, _debugs  # structlog's configuration is the process's, too
    _settings, _debugs = settings, LogLevel.DEBUG in settings.levels
    automatic = settings.format is LogFormat.AUTO and sys.stderr.isatty()
    for_people = settings.format is LogFormat.CONSOLE or automatic
    numbers = logging.getLevelNamesMapping()
    least = min((numbers[level.upper()] for level in settings.levels), default=logging.CRITICAL)
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _drop_other_levels,
        structlog.processors.TimeStamper(fmt="iso", utc=not for_people),
    ]
    rendering: list[Processor] = (
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if for_people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        # Standard error as it is when a line is written: whoever redirects it later gets the lines, too.
        logger_factory=lambda *_: _Lines(sys.stderr),
        cache_logger_on_first_use=False,
    )


def _drop_other_levels(_logger: object, _method: str, event: EventDict) -> EventDict:
    if event["level"] not in _settings.levels and event["level"] in set(LogLevel):
        raise structlog.DropEvent
    return event


def get_logger() -> FilteringBoundLogger:
    """The logger: ``log.info("event", key=value)``."""
    return cast("FilteringBoundLogger", structlog.get_logger())
