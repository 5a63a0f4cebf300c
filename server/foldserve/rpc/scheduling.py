"""The request parameters that say how a request is scheduled, and those that ask for what is not offered."""

import re
from typing import NamedTuple

from foldserve_proto import grpc_service_pb2 as pb

from foldserve.errors import InvalidRequest, NotSupported
from foldserve.rpc.parameters import Parameters

PRIORITY = "priority"
TIMEOUT = "timeout"
SEQUENCE_ID = "sequence_id"
RESERVED = "triton_"
DIGITS = re.compile("[0-9]{1,19}")
KNOWN_RESERVED = {"triton_enable_empty_final_response"}
"""Parameters that begin like Triton's own and mean something here."""


class Scheduling(NamedTuple):
    """Priority, 0 the default one, and longest wait in line in microseconds, 0 for none given."""

    priority: int = 0
    timeout_us: int = 0


UNSCHEDULED = Scheduling()


def scheduling(parameters: Parameters) -> Scheduling:
    """What the parameters of a request say; unknown ones are passed over.

    Raises :class:`InvalidRequest` for a value that is no whole number or negative and for a reserved name,
    :class:`NotSupported` for a request of a sequence.
    """
    if not parameters:
        return UNSCHEDULED
    for name in parameters:
        if name.startswith(RESERVED) and name not in KNOWN_RESERVED:
            raise InvalidRequest(f"parameter '{name}': names that begin with '{RESERVED}' are reserved")
    if SEQUENCE_ID in parameters and _sequence(parameters[SEQUENCE_ID]):
        raise NotSupported(
            f"parameter '{SEQUENCE_ID}': models here keep no state between requests; send 0 or leave it out"
        )
    return Scheduling(_whole_number(parameters, PRIORITY), _whole_number(parameters, TIMEOUT))


def _sequence(value: pb.InferParameter) -> bool:
    """Whether a sequence is named: 0 and the empty text name none."""
    kind = value.WhichOneof("parameter_choice")
    return kind is not None and bool(getattr(value, kind))


def _whole_number(parameters: Parameters, name: str) -> int:
    """A whole number from 0 on, as number or as text, for clients differ; 0 if absent."""
    if name not in parameters:
        return 0
    value = parameters[name]
    kind = value.WhichOneof("parameter_choice")
    if kind == "string_param" and DIGITS.fullmatch(value.string_param):
        return int(value.string_param)
    if kind not in ("int64_param", "uint64_param"):
        raise InvalidRequest(f"parameter '{name}' is a whole number: send int64_param, not {kind}")
    number = int(getattr(value, kind))
    if number < 0:
        raise InvalidRequest(f"parameter '{name}' is {number}; it cannot be negative")
    return number
