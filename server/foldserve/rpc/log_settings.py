"""Log settings, read and changed while the server runs."""

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.errors import InvalidRequest, NotSupported
from foldserve.observability.logging import LogSettings, apply_log_settings, get_logger, log_settings
from foldserve.settings import LogFormat, LogLevel

BOOLEANS = {"log_info": LogLevel.INFO, "log_warning": LogLevel.WARNING, "log_error": LogLevel.ERROR}
"""Triton's settings that switch one level each."""

KINDS = {
    **dict.fromkeys(BOOLEANS, "bool_param"),
    "log_verbose_level": "uint32_param",
    "log_format": "string_param",
    "log_file": "string_param",
}
"""All log settings, and the kind of value that each takes."""

log = get_logger()


class LogMethods(service.GRPCInferenceServiceServicer):
    """The method around logging, which is the process's."""

    def LogSettings(
        self, request: pb.LogSettingsRequest, context: grpc.ServicerContext
    ) -> pb.LogSettingsResponse:
        """Change what is given, all of it or nothing, and tell what holds now."""
        if request.settings:
            changed = _changed(log_settings(), request)
            # Before it holds: who silences a level cannot silence this.
            log.warning(
                "a caller changes the log settings",
                caller=context.peer(),
                levels=[level for level in LogLevel if level in changed.levels],
                format=changed.format,
            )
            apply_log_settings(changed)
        return _told(log_settings())


def _changed(settings: LogSettings, request: pb.LogSettingsRequest) -> LogSettings:
    levels, log_format = set(settings.levels), settings.format
    for name, value in request.settings.items():
        if name not in KINDS:
            raise InvalidRequest(f"unknown log setting '{name[:100]}'; there are {', '.join(KINDS)}")
        kind = value.WhichOneof("parameter_choice")
        if kind != KINDS[name]:
            raise InvalidRequest(f"log setting '{name}' takes {KINDS[name]}, not {kind or 'nothing'}")
        if name == "log_file":
            raise NotSupported(
                "log_file cannot be set by callers: the log goes to standard error; redirect it at start"
            )
        if name == "log_format":
            log_format = _log_format(value.string_param)
        else:
            level = BOOLEANS.get(name, LogLevel.DEBUG)
            wanted = value.bool_param if name in BOOLEANS else value.uint32_param > 0
            (levels.add if wanted else levels.discard)(level)
    return LogSettings(log_format, frozenset(levels))


def _log_format(name: str) -> LogFormat:
    if name not in set(LogFormat):
        raise InvalidRequest(f"log_format '{name[:100]}' is not one of {', '.join(LogFormat)}")
    return LogFormat(name)


def _told(settings: LogSettings) -> pb.LogSettingsResponse:
    response = pb.LogSettingsResponse()
    response.settings["log_file"].string_param = ""
    response.settings["log_format"].string_param = settings.format
    response.settings["log_verbose_level"].uint32_param = int(LogLevel.DEBUG in settings.levels)
    for name, level in BOOLEANS.items():
        response.settings[name].bool_param = level in settings.levels
    return response
