"""PyTorch programs in, ONNX models with all their BatchNorms out; torch runs in a child process only.

- ``archive``: which files are torch.export archives, and what to say about those that are not
- ``importer``: what others ask for: import or freeze a file
- ``process``: start the child, wait, say what came of it
- ``child``, ``freeze_child``: the child's side, the only processes that import torch
- ``torch_program``: from an ``ExportedProgram`` to an ONNX model
- ``tidy``: cleaning what torch's exporter wrote
- ``freeze``, ``freeze_program``: BatchNorm as a fixed affine, of a module and of a program
- ``redundant_biases``: biases that a BatchNorm cancels
- ``explain``: from torch's exceptions to a sentence
- ``report``: what is told about an import or a freeze

The functions of ``freeze``, ``freeze_program`` and ``redundant_biases`` are for training scripts, too.
"""

from foldserve.importing.archive import PICKLE_SUFFIXES, refuse_pickle
from foldserve.importing.cache import import_cached
from foldserve.importing.importer import freeze_program_file, import_program
from foldserve.importing.report import FreezeReport, ImportReport

__all__ = [
    "PICKLE_SUFFIXES",
    "FreezeReport",
    "ImportReport",
    "freeze_program_file",
    "import_cached",
    "import_program",
    "refuse_pickle",
]
