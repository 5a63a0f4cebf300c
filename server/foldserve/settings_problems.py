"""What is wrong with values for settings, in words for whoever wrote them."""

from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails


def problems(error: ValidationError, settings: type[BaseModel]) -> str:
    """What is wrong with values for ``settings``, by key; for an unknown key, the nearest known one."""
    return "; ".join(problem(one, settings) for one in error.errors())


def problem(one: "ErrorDetails", settings: type[BaseModel]) -> str:
    """One of the :func:`problems`."""
    location = one["loc"]
    key = ".".join(map(str, location)) or "settings"
    if one["type"] != "extra_forbidden":
        return f"'{key}': {one['msg']}"
    known = _keys_at(location[:-1], settings)
    nearest = get_close_matches(str(location[-1]), known, n=1)
    return f"'{key}' is not a setting; " + (
        f"did you mean '{nearest[0]}'?" if nearest else f"there are {', '.join(known)}"
    )


def _keys_at(location: tuple[int | str, ...], settings: type[BaseModel]) -> list[str]:
    """The settings' names at a place within nested settings."""
    candidates = [settings]
    for part in location:
        if isinstance(part, str):
            annotations = [
                one.model_fields[part].annotation for one in candidates if part in one.model_fields
            ]
            nested = [kind for annotation in annotations for kind in _models_in(annotation)]
            candidates = nested or [one for one in candidates if one.__name__ == part] or candidates
    return [name for one in candidates for name in one.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The settings classes within a type, such as ``tuple[DeclaredTensor, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in get_args(annotation) for model in _models_in(part)]
