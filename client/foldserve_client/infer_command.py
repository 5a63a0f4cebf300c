"""What ``foldserve-client infer`` does: files in, answers out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from foldserve_client import splitting
from foldserve_client.client import Client
from foldserve_client.errors import InvalidArgument
from foldserve_client.files import UnreadableFile, holds_arrays, read_arrays, read_labels
from foldserve_client.images import check_image, read_images
from foldserve_client.inference import InferResult, Inputs, Signature, Spec
from foldserve_client.inferring import ClassScore
from foldserve_client.preparation import Fit, Layout, Preparation

Classified: TypeAlias = list[tuple[str, list[ClassScore]]]
"""Each image's file and its classes, the best one first."""


@dataclass(frozen=True)
class Task:
    """What to run, on what."""

    model: str
    version: str
    files: tuple[Path, ...]
    arrays: Inputs | None
    """What the only file holds; None where the files are images."""

    outputs: tuple[str, ...]
    preparation: Preparation
    top: int
    labels: Path | None


def preparation(*, size: str, fit: Fit, layout: Layout, scale: float, mean: str, std: str) -> Preparation:
    """What the options say of images; raises UnreadableFile naming one that says nothing."""
    return Preparation(
        _size(size) if size else None, fit, layout, scale, _numbers("mean", mean), _numbers("std", std)
    )


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
        return client.infer(task.model, task.arrays, version=task.version, outputs=task.outputs)
    signature = Signature(client.model_metadata(task.model, version=task.version))
    if len(signature.inputs) != 1:
        raise InvalidArgument(f"model '{task.model}' takes {len(signature.inputs)} inputs; give an .npz file")
    (taken,) = signature.inputs
    images = read_images(task.files, taken, task.preparation)
    batches = list(splitting.parts([images], len(images) if taken.shape[0] == -1 else taken.shape[0]))
    if task.top and not whole and _names_classes(_outputs(signature, task.outputs)):
        rows = [
            row
            for (batch,) in batches
            for row in client.classify(
                task.model, batch, top=task.top, output=next(iter(task.outputs), None), version=task.version
            )
        ]
        return [(str(file), row) for file, row in zip(task.files, _labelled(rows, task.labels), strict=True)]
    answers = [
        client.infer(task.model, batch, version=task.version, outputs=task.outputs) for (batch,) in batches
    ]
    return splitting.joined(answers)


def _outputs(signature: Signature, names: tuple[str, ...]) -> list[Spec]:
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
