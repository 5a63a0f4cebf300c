"""Imports run one way: cli → rpc → serving → {parity, runtime, folding, importing}, parity → runtime."""

import ast
from pathlib import Path

import foldserve
import pytest

ROOT = Path(foldserve.__file__).parent
LEAVES = {"errors", "settings", "__init__"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "settings": set(),
    "__init__": set(),
    "folding": LEAVES,
    "importing": LEAVES,
    "runtime": LEAVES,
    "parity": LEAVES | {"runtime", "observability"},
    "observability": LEAVES,
    "serving": LEAVES | {"parity", "runtime", "folding", "importing", "observability"},
    "rpc": LEAVES | {"serving", "runtime", "observability"},
    "server": LEAVES | {"rpc", "serving", "runtime", "observability"},
    "cli_options": LEAVES,
    "commands": LEAVES | {"serving", "folding", "parity", "runtime", "importing"},
    "cli": LEAVES | {"server", "cli_options", "commands", "observability", "runtime"},
    "__main__": {"cli"},
}
GRPC_AND_PROTOCOL = {"grpc", "foldserve_proto", "grpc_health", "grpc_reflection"}
ONLY_IN = {
    "torch": {"importing"},
    "onnxscript": {"importing"},
    "onnxruntime": {"runtime"},
    "asyncio": set[str](),
    **{name: {"rpc"} for name in GRPC_AND_PROTOCOL},
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


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_what_its_part_may(module: Path) -> None:
    part = _part(module)
    for name in _imported(module):
        head, _, rest = name.partition(".")
        if head == "foldserve" and rest != "__version__":
            target = rest.partition(".")[0]
            assert target == part or target in MAY_IMPORT[part], f"{part} imports {name}"
        elif head in ONLY_IN:
            assert part in ONLY_IN[head], f"{part} imports {name}"


def test_the_rule_would_catch_a_wrong_import(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("from foldserve.rpc import codec\nimport torch\n")
    assert _imported(wrong) == {"foldserve.rpc.codec", "torch"}
    assert "rpc" not in MAY_IMPORT["folding"]
