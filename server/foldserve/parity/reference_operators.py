"""Operators that ONNX's reference evaluator gets wrong, right: the judge must not be the one who errs.

- BatchNormalization before operator set 14 is evaluated with the statistics of the batch mixed in, and before
  9 not at all. At inference it is scale · (x − mean) / √(variance + ε) + bias in every set.
- ConvTranspose with more than one group fails. Each group is a ConvTranspose of its own: channels
  [g·C/G, (g+1)·C/G) of the input and of the weight [C, M/G, …], and M/G channels of bias and output.
"""

from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_batch_normalization import BatchNormalization_14
from onnx.reference.ops.op_conv_transpose import ConvTranspose as ConvTransposeOfOneGroup

_BatchNormalization14: Any = BatchNormalization_14
_ConvTransposeOfOneGroup: Any = ConvTransposeOfOneGroup
"""The evaluator's own operators; they are not typed."""


class BatchNormalization(OpRun):
    """Any operator set; the batch's own statistics only where the node says so."""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        outputs = len(self.onnx_node.output)
        epsilon = attributes["epsilon"]
        if attributes.get("training_mode"):
            statistics = {"epsilon": epsilon, "momentum": attributes["momentum"], "training_mode": 1}
            results: tuple[Any, ...] = _BatchNormalization14._run(self, *inputs, **statistics)
            return results[:outputs]
        if outputs > 1 or attributes.get("spatial") == 0:
            raise NotImplementedError(f"{self.onnx_node.name}: a BatchNormalization of training")
        x = inputs[0]
        per_channel = (-1, *(1,) * (x.ndim - 2))
        scale, bias, mean, variance = (parameter.reshape(per_channel) for parameter in inputs[1:])
        return (scale / np.sqrt(variance + epsilon) * (x - mean) + bias,)


class ConvTranspose(OpRun):
    """Any number of groups."""

    def _run(self, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        x, weight, bias = (*inputs, None)[:3]
        groups = attributes["group"] or 1
        biases = [None] * groups if bias is None else np.split(bias, groups)
        parts = zip(np.split(x, groups, axis=1), np.split(weight, groups), biases, strict=True)
        alone = attributes | {"group": 1}
        outputs = [_ConvTransposeOfOneGroup._run(self, *part, **alone)[0] for part in parts]
        return (np.concatenate(outputs, axis=1),)


OPERATORS = [BatchNormalization, ConvTranspose]
