"""onnx-ir, imported without the SymPy that it takes along.

It has SymPy for arithmetic with symbolic dimensions, of which folding and proving do none: 33 MB that a
server would keep for its life, and a quarter of a second of its first start.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

NEEDED_FOR_ARITHMETIC = ("sympy", "onnx_ir._symbolic_shapes")


class _Later(ModuleType):
    """Stands for a module that is imported when something of it is used, if ever."""

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(self.__name__) is self:  # wanted already while onnx-ir is imported
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def import_graph_library() -> None:
    """Import onnx-ir, as small as it gets; nothing happens if it is there already.

    Only onnx-ir sees the stand-ins: who imports SymPy gets SymPy.
    """
    if "onnx_ir" in sys.modules:
        return
    stand_ins = {name: _Later(name) for name in NEEDED_FOR_ARITHMETIC if name not in sys.modules}
    sys.modules.update(stand_ins)
    try:
        importlib.import_module("onnx_ir")
    finally:
        for name in stand_ins:
            sys.modules.pop(name, None)
