"""The files of an original in the cache, and what is known of them."""

from pydantic import BaseModel, ConfigDict

ORIGINAL, REFERENCE, WEIGHTS = "model.onnx", "reference.onnx", "model.onnx.data"


class OriginalRecord(BaseModel):
    """What is known of an original on disk."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights_bytes: int
    """Bytes of all its weights."""

    tapped_layers: int
    """BatchNorms that the reference shows the inputs of."""
