"""What is wrong with values for settings, in words for whoever wrote them."""

import reprlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

KINDS = {
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "hold settings as 'name: value'"),
    **dict.fromkeys(("tuple_type", "list_type"), "be a list"),
}
"""What a value must do, by pydantic's name of what is wrong with it; its own texts speak of Python."""


def problem(one: "ErrorDetails", settings: type[BaseModel], names: Mapping[str, str] | None = None) -> str:
    """What is wrong with one value for ``settings``; for an unknown key, the nearest known one.

    ``names`` tells what whoever wrote the value calls a setting, by our name with dots.
    """
    location = one["loc"]
    if not location:
        return _said(one)
    key = f"'{_name(location, names or {})}'"
    if one["type"] == "extra_forbidden":
        known = _keys_at(location[:-1], settings)
        nearest = get_close_matches(str(location[-1]), known, n=1)
        hint = f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join(known)}"
        return f"{key} is not a setting; {hint}"
    return f"{key}: {_said(one)}" if one["type"] == "value_error" else f"{key} {fault(one)}"


def fault(one: "ErrorDetails") -> str:
    """What is wrong with a value, to be put behind its name."""
    if one["type"] == "missing":
        return "is required"
    if one["type"] == "value_error":
        return f"cannot be: {_said(one)}"
    must = KINDS.get(one["type"]) or one["msg"].removeprefix("Input should ")
    return f"must {must}; got {reprlib.repr(one['input'])}"


def _said(one: "ErrorDetails") -> str:
    return one["msg"].removeprefix("Value error, ")


def _name(location: tuple[int | str, ...], names: Mapping[str, str]) -> str:
    key = ".".join(map(str, location))
    for ours, theirs in names.items():
        if key == ours or key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    return key


def _keys_at(location: tuple[int | str, ...], settings: type[BaseModel]) -> list[str]:
    """The settings' names at a place within nested settings."""
    candidates = [settings]
    for part in location:
        if isinstance(part, str):
            annotations = [
                one.model_fields[part].annotation for one in candidates if part in one.model_fields
            ]
            nested = [kind for annotation in annotations for kind in _models_in(annotation)]
            candidates = nested or candidates
    return [name for one in candidates for name in one.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes within a type, such as ``tuple[DeclaredTensor, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
