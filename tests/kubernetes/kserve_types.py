"""Reads manifests (YAML, standard input); prints what KServe's own types say against them, as a JSON list.

Runs in an environment of its own (requirements-kubernetes.txt): the types come from KServe's package.
"""

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import yaml

PLAIN: dict[str, type] = {"str": str, "int": int, "bool": bool}
FREE = {"object", "V1ObjectMeta"}
"""Types whose content is anybody's."""


def problems(value: Any, kind: str, where: str) -> Iterator[str]:
    """What is wrong with a value, given a type that the generated models name: ``list[V1Container]``."""
    if several := re.fullmatch(r"list\[(.+)\]", kind):
        if not isinstance(value, list):
            yield f"{where}: {kind} wanted, {value!r} found"
            return
        for index, item in enumerate(value):
            yield from problems(item, several[1], f"{where}[{index}]")
    elif mapping := re.fullmatch(r"dict\(str, (.+)\)", kind):
        for key, item in value.items():
            yield from problems(item, mapping[1], f"{where}.{key}")
    elif kind in PLAIN:
        if not isinstance(value, PLAIN[kind]) or (isinstance(value, bool) and kind != "bool"):
            yield f"{where}: {kind} wanted, {value!r} found"
    elif kind not in FREE:
        yield from _problems_of_fields(value, kind, where)


def _problems_of_fields(value: dict[str, Any], kind: str, where: str) -> Iterator[str]:
    model = _model(kind)
    names = {json_name: name for name, json_name in model.attribute_map.items()}
    for key, item in value.items():
        if key not in names:
            yield f"{where}: {kind} has no field {key}"
        else:
            yield from problems(item, model.openapi_types[names[key]], f"{where}.{key}")
    try:
        model(**{names[key]: item for key, item in value.items() if key in names})
    except ValueError as error:
        yield f"{where}: {error}"


def _model(kind: str) -> Any:
    kserve, kubernetes = map(importlib.import_module, ("kserve.models", "kubernetes.client"))
    return getattr(kserve, kind, None) or getattr(kubernetes, kind)


def _kserve_without_its_server() -> None:
    """The package's own ``__init__`` wants everything that a server in Python needs; its models do not."""
    found = importlib.util.find_spec("kserve")
    assert found is not None
    assert found.submodule_search_locations is not None
    package = ModuleType("kserve")
    package.__path__ = list(found.submodule_search_locations)
    sys.modules["kserve"] = package


def _kind(manifest: dict[str, Any]) -> str:
    version = manifest["apiVersion"].rpartition("/")[2]
    return f"{version[0].upper()}{version[1:]}{manifest['kind']}"


if __name__ == "__main__":
    _kserve_without_its_server()
    manifests = [manifest for manifest in yaml.safe_load_all(sys.stdin) if manifest]
    print(json.dumps([text for one in manifests for text in problems(one, _kind(one), one["kind"])]))
