"""foldserve.v1.FoldService against the reports that the server puts into it."""

from collections.abc import Iterator
from types import UnionType
from typing import get_args, get_origin

import pytest
from foldserve.folding.report import FoldReport
from foldserve.parity.drift import DriftReport
from foldserve.parity.report import LiveParity, ParityReport
from foldserve.serving.servable import Fallback
from foldserve_proto import fold_service_pb2 as pb
from google.protobuf.descriptor import Descriptor
from pydantic import BaseModel


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (FoldReport, pb.FoldReport.DESCRIPTOR),
        (ParityReport, pb.ParityReport.DESCRIPTOR),
        (LiveParity, pb.LiveParity.DESCRIPTOR),
        (Fallback, pb.Fallback.DESCRIPTOR),
        (DriftReport, pb.Drift.DESCRIPTOR),
    ],
    ids=["fold", "parity", "live parity", "fallback", "drift"],
)
def test_messages_have_the_fields_of_the_reports(report: type[BaseModel], message: Descriptor) -> None:
    assert sorted(names_in_message(message)) == sorted(names_in_model(report))


def names_in_model(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Dotted names of all fields, with a question mark where None is allowed."""
    for name, field in model.model_fields.items():
        optional = isinstance(field.annotation, UnionType) and type(None) in get_args(field.annotation)
        yield f"{path}{name}{'?' if optional else ''}"
        for nested in models_in(field.annotation):
            yield from names_in_model(nested, f"{path}{name}.")


def models_in(annotation: object) -> Iterator[type[BaseModel]]:
    if get_origin(annotation) is not None or isinstance(annotation, UnionType):
        for argument in get_args(annotation):
            yield from models_in(argument)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def names_in_message(record: Descriptor, path: str = "") -> Iterator[str]:
    for field in record.fields:
        optional = field.containing_oneof is not None  # proto3's "optional" makes a oneof of one
        yield f"{path}{field.name}{'?' if optional else ''}"
        message = field.message_type
        if message is not None and carries_a_record(message):
            yield from names_in_message(message, f"{path}{field.name}.")


def carries_a_record(message: Descriptor) -> bool:
    """Whether a message stands for a pydantic model rather than for a dict."""
    return not message.GetOptions().map_entry and message.name != "ProbeShapes"
