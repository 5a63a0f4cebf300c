"""What a load request brings: a configuration and the model's files, as a command names them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from foldserve_proto.model_config_pb2 import ModelConfig
from google.protobuf import json_format, text_format

from foldserve_client.files import UnreadableFile

MODEL_FILES = {".onnx": "1/model.onnx", ".pt2": "1/model.pt2"}
"""Where a file that is named by its path alone goes, by its ending."""


def config_in(text: str) -> dict[str, Any]:
    """The ModelConfig in a JSON text, or in a file: JSON, or protobuf text where it ends in ``.pbtxt``.

    Raises UnreadableFile saying what is wrong; which fields there are the server knows.
    """
    if text.lstrip().startswith("{"):
        return _object(text, "--config")
    file = Path(text)
    content = _content(file).decode(errors="replace")
    if file.suffix != ".pbtxt":
        return _object(content, text)
    try:
        config = text_format.Parse(content, ModelConfig())
    except text_format.ParseError as error:
        raise UnreadableFile(f"{file} is not Triton's ModelConfig as protobuf text: {error}") from None
    values: dict[str, Any] = json_format.MessageToDict(config, preserving_proto_field_name=True)
    return values


def contents_of(texts: Sequence[str]) -> dict[str, bytes]:
    """Files by their paths in the model's folder, from ``PATH`` or ``NAME=PATH``; raises UnreadableFile."""
    contents = {}
    for text in texts:
        name, equals, path = text.partition("=")
        file = Path(path if equals else text)
        name = name if equals else MODEL_FILES.get(file.suffix, "")
        if not name:
            raise UnreadableFile(
                f"--file {text}: say where in the model's folder it belongs, 1/model.onnx={text} for instance"
            )
        contents[name] = _content(file)
    return contents


def _object(text: str, what: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise UnreadableFile(f"{what} is no JSON: {error}") from None
    if not isinstance(values, dict):
        raise UnreadableFile(f"{what} is no JSON object; write {{...}} with the fields of ModelConfig")
    return values


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UnreadableFile(f"{file} cannot be read: {error.strerror}") from None
