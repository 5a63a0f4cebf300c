"""What ``foldserve-client infer`` does: files in, answers out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from foldserve_client import splitting
from foldserve_client.client import Client
from foldserve_client.errors import InvalidArgument
from foldserve_client.files import UnreadableFile, holds_arrays, read_arrays, read_labels
from foldserve_client.images import check_image, read_images
from foldserve_client.inference import Asked, InferResult, Inputs, Parameter, Signature, Spec
from foldserve_client.inferring import ClassScore
from foldserve_client.preparation import Fit, Layout, Preparation
from foldserve_client.tensors import Array

Classified: TypeAlias = list[tuple[str, list[ClassScore]]]
"""Each image's file and its classes, the best one first."""


@dataclass(frozen=True)
class Task:
    """What to run, on what."""

    model: str
    files: tuple[Path, ...]
    arrays: Inputs | None
    """What the only file holds; None where the files are images."""

    asked: Asked
    preparation: Preparation
    top: int
    labels: Path | None


def preparation(*, size: str, fit: Fit, layout: Layout, scale: float, mean: str, std: str) -> Preparation:
    """What the options say of images; raises UnreadableFile naming one that says nothing."""
    return Preparation(
        _size(size) if size else None, fit, layout, scale, _numbers("mean", mean), _numbers("std", std)
    )


def parameters(texts: Sequence[str]) -> dict[str, Parameter]:
    """Values by name, from ``NAME=VALUE``: true, false and numbers as such, all else as text."""
    found: dict[str, Parameter] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise UnreadableFile(f"--parameter is '{text}'; write NAME=VALUE")
        try:
            meant = json.loads(value)
        except ValueError:
            meant = value
        found[name] = meant if isinstance(meant, bool | int | float | str) else value
    return found


def arrays_in(files: Sequence[Path]) -> Inputs | None:
    """The arrays in the only file, or None for images; raises UnreadableFile for anything else."""
    if len(files) == 1 and holds_arrays(files[0]):
        return read_arrays(files[0])
    for file in files:
        if holds_arrays(file):
            raise UnreadableFile(f"{file} holds arrays; give one such file, or any number of images")
        check_image(file)
    return None


def ask(client: Client, task: Task, *, whole: bool) -> InferResult | Classified:
    """The answer of the model: classes where images are classified, the outputs themselves if ``whole``."""
    if task.arrays is not None:
        return _infer(client, task, task.arrays)
    asked = task.asked
    signature = Signature(client.model_metadata(task.model, version=asked.version))
    if len(signature.inputs) != 1:
        raise InvalidArgument(f"model '{task.model}' takes {len(signature.inputs)} inputs; give an .npz file")
    (taken,) = signature.inputs
    images = read_images(task.files, taken, task.preparation)
    batches = list(splitting.parts([images], len(images) if taken.shape[0] == -1 else taken.shape[0]))
    if task.top and not whole and _names_classes(_outputs(signature, asked.outputs)):
        rows = [row for (batch,) in batches for row in _classify(client, task, batch)]
        return [(str(file), row) for file, row in zip(task.files, _labelled(rows, task.labels), strict=True)]
    return splitting.joined([_infer(client, task, batch) for (batch,) in batches])


def _infer(client: Client, task: Task, inputs: Inputs) -> InferResult:
    asked = task.asked
    return client.infer(
        task.model,
        inputs,
        version=asked.version,
        outputs=asked.outputs,
        request_id=asked.request_id,
        parameters=asked.parameters,
    )


def _classify(client: Client, task: Task, images: Array) -> list[list[ClassScore]]:
    asked = task.asked
    return client.classify(
        task.model,
        images,
        top=task.top,
        output=next(iter(asked.outputs), None),
        version=asked.version,
        request_id=asked.request_id,
        parameters=asked.parameters,
    )


def _outputs(signature: Signature, names: Sequence[str]) -> list[Spec]:
    return [output for output in signature.outputs if not names or output.name in names]


def _names_classes(outputs: list[Spec]) -> bool:
    """Whether there is one output, of one row of scores for each image."""
    return len(outputs) == 1 and len(outputs[0].shape) == 2 and outputs[0].datatype.startswith(("FP", "BF"))


def _labelled(rows: list[list[ClassScore]], labels: Path | None) -> list[list[ClassScore]]:
    """The classes with the labels of a file, if there is one."""
    if labels is None:
        return rows
    names = dict(enumerate(read_labels(labels)))
    return [[replace(one, label=names.get(one.index, one.label)) for one in row] for row in rows]


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.lower().partition("x")
    if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
        raise UnreadableFile(f"--size is '{text}'; write HEIGHTxWIDTH, such as 224x224")
    return int(height), int(width)


def _numbers(name: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(number) for number in text.split(","))
    except ValueError:
        raise UnreadableFile(f"--{name} is '{text}'; write numbers with commas between them") from None
