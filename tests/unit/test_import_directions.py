"""Imports run one way: cli → rpc → serving → {parity, runtime, folding, importing ...}, parity → runtime."""

import ast
from pathlib import Path

import foldserve
import pytest

ROOT = Path(foldserve.__file__).parent
LEAVES = {
    "disk_cache",
    "errors",
    "graph_library",
    "lifeline",
    "settings",
    "settings_problems",
    "templates",
    "yaml_file",
    "__init__",
}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "__init__": set(),
    "graph_library": set(),
    "folding": LEAVES,
    "importing": LEAVES,
    "converting": LEAVES,
    "runtime": LEAVES - {"disk_cache"},
    "parity": LEAVES | {"runtime", "observability"},
    "observability": LEAVES,
    "serving": LEAVES | {"parity", "runtime", "folding", "importing", "converting", "observability"},
    "rpc": LEAVES | {"serving", "runtime", "observability"},
    "status": LEAVES | {"serving", "parity", "runtime", "folding", "observability"},
    "server": LEAVES | {"rpc", "serving", "status", "runtime", "observability"},
    "disk_cache": {"runtime"},  # how many processors there are
    "lifeline": set(),
    "templates": set(),
    "settings_problems": set(),
    "yaml_file": {"errors"},
    "configuration": LEAVES,
    "cli_options": LEAVES | {"configuration"},
    "commands": LEAVES
    | {"configuration", "rpc", "serving", "folding", "parity", "runtime", "importing", "observability"},
    "cli": LEAVES | {"server", "configuration", "cli_options", "commands", "observability", "runtime"},
    "__main__": {"cli"},
}
GRPC = {"grpc", "grpc_health", "grpc_reflection"}
ONLY_IN = {
    "torch": {"importing"},
    "onnxscript": {"importing"},
    "onnxruntime": {"runtime", "converting"},
    "openvino": {"runtime"},
    "asyncio": set[str](),
    "opentelemetry": {"observability"},
    **{name: {"rpc", "commands"} for name in GRPC},  # commands: probe
    "foldserve_proto": {"rpc", "serving"},  # serving reads configurations, no requests
}
MODULES = sorted(ROOT.rglob("*.py"))


def _part(module: Path) -> str:
    return module.relative_to(ROOT).parts[0].removesuffix(".py")


def _imported(module: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(module.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _violations(part: str, imported: set[str]) -> list[str]:
    wrong = []
    for name in imported:
        head, _, rest = name.partition(".")
        if head == "foldserve" and rest != "__version__":
            target = rest.partition(".")[0]
            if target != part and target not in MAY_IMPORT[part]:
                wrong.append(name)
        elif part not in ONLY_IN.get(head, {part}):
            wrong.append(name)
    return sorted(wrong)


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(module: Path) -> None:
    assert not _violations(_part(module), _imported(module))


def test_the_rule_finds_wrong_imports(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "from foldserve.rpc import codec\nimport torch\nfrom foldserve.errors import NotSupported\n"
    )
    assert _violations("folding", _imported(wrong)) == ["foldserve.rpc.codec", "torch"]
