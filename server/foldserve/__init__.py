"""foldserve: a model server that folds BatchNorm at load, proves it, and keeps proving it while it serves."""

__version__ = "0.1.0"
