"""PyTorch programs in, ONNX models with all their BatchNorms out; torch runs in a child process only.

- ``archive``: which files are torch.export archives, and what to say about those that are not
- ``importer``: the parent's side: start the child, wait, report
- ``child``: the child's side, the only process that imports torch
- ``torch_program``: from an ``ExportedProgram`` to an ONNX model
- ``tidy``: cleaning what torch's exporter wrote
- ``explain``: from torch's exceptions to a sentence
- ``report``: what is told about an import
"""

from foldserve.importing.archive import PICKLE_SUFFIXES, refuse_pickle
from foldserve.importing.importer import import_program
from foldserve.importing.report import ImportReport

__all__ = ["PICKLE_SUFFIXES", "ImportReport", "import_program", "refuse_pickle"]
