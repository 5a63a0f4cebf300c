"""Answers on the terminal: as JSON for programs, as tables for people."""

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from rich.console import RenderableType

    from foldserve_client.infer_command import Classified
    from foldserve_client.inference import InferResult


def show(answer: "Message", table: str, *, as_json: bool = False) -> None:
    """Print an answer as JSON, or as the table that ``display`` makes of it under this name."""
    if as_json:
        print_json(message(answer))
        return
    from foldserve_client import display  # noqa: PLC0415 - JSON and the help do not wait for rich

    _print_table(getattr(display, table)(answer))


def show_result(result: "InferResult", *, as_json: bool) -> None:
    """Print the outputs of a model."""
    from foldserve_client import as_json as plain  # noqa: PLC0415
    from foldserve_client import display  # noqa: PLC0415

    if as_json:
        print_json(plain.infer_result(result))
    else:
        _print_table(display.infer_result(result))


def show_classes(classified: "Classified", *, as_json: bool) -> None:
    """Print the classes of each image."""
    from foldserve_client import display  # noqa: PLC0415

    if as_json:
        print_json(
            [{"file": file, "classes": [asdict(one) for one in classes]} for file, classes in classified]
        )
    else:
        _print_table(display.classes(classified))


def message(answer: "Message") -> dict[str, Any]:
    """The fields of an answer, for :func:`print_json`."""
    from foldserve_client import as_json  # noqa: PLC0415

    return as_json.message(answer)


def print_json(value: object) -> None:
    """Print plain values; BYTES become text, and so do NaN and the infinities, which JSON has no form for."""
    plain = _with_finite_numbers(value)
    print(json.dumps(plain, indent=2, default=lambda element: element.decode(errors="replace")))


def _with_finite_numbers(value: Any) -> Any:
    """The others as text, as protobuf writes them."""
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
        case dict():
            return {key: _with_finite_numbers(one) for key, one in value.items()}
        case list() | tuple():
            return [_with_finite_numbers(one) for one in value]
    return value


def _print_table(table: "RenderableType") -> None:
    from rich.console import Console  # noqa: PLC0415

    Console().print(table)
