"""What is told about work on a PyTorch program."""

from pydantic import BaseModel, ConfigDict


class ImportReport(BaseModel):
    """How a ``.pt2`` program became an ONNX model."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    torch_version: str
    """Version of torch that read the program."""

    opset: int
    """Version of the ONNX operator set that the model uses."""

    program_batch_norms: int
    """Batch norm calls in the program."""

    onnx_batch_norms: int
    """BatchNormalization nodes in the ONNX model; fewer only where one normalised nothing but constants."""

    inputs: tuple[str, ...]
    """Names of the model's inputs, in the order of the program's arguments."""

    outputs: tuple[str, ...]
    """Names of the model's outputs, in the order of the program's results."""

    seconds: float
    """Time that the import took, in seconds, starting torch included."""


class FreezeReport(BaseModel):
    """How the BatchNorms of a ``.pt2`` program became fixed affines."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    torch_version: str
    """Version of torch that read and wrote the program."""

    frozen: int
    """Batch norm calls that became affines."""

    kept: int
    """Batch norm calls that stay: without running statistics, or in the body of a branch or a loop."""

    seconds: float
    """Time that it took, in seconds, starting torch included."""
