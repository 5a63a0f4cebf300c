"""What is fuzzed: bytes from outside, and the code that first makes sense of them.

Each target takes bytes and returns, or raises one of foldserve's own exceptions. Anything else is a finding.
"""

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from foldserve.errors import FoldserveError
from foldserve.folding import fold
from foldserve.importing.archive import check_archive
from foldserve.parity.samples import read_samples
from foldserve.rpc import codec
from foldserve.rpc.output_forms import output_forms
from foldserve.rpc.scheduling import scheduling
from foldserve.runtime.tensors import TensorSpec
from foldserve.serving.model_configuration import read_configuration
from foldserve.serving.model_file import read_model
from foldserve.serving.repository import look_at
from foldserve.serving.shared_memory import SharedMemory
from foldserve.serving.uploaded import written
from foldserve.serving.validation import validate_inputs
from foldserve.settings import ServerSettings
from foldserve_proto import grpc_service_pb2 as pb
from google.protobuf.message import DecodeError

SPECS = tuple(
    TensorSpec(name, np.dtype(kind), ("batch", 2))
    for name, kind in (("x", np.float32), ("flags", np.bool_), ("texts", np.object_))
)
SERVER = ServerSettings(repository=(Path("models"),))
CONFIGURATIONS = ("foldserve.yaml", "config.pbtxt", "")
"""What the first byte of a configuration chooses: a file, or the JSON of a load request."""


def request(data: bytes) -> None:
    """The bytes of a ModelInferRequest, up to the arrays that a model would be given."""
    try:
        asked = pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return
    memory = SharedMemory(enabled=True, most_bytes=2**20)
    output_forms(asked, memory)
    codec.is_typed(asked)
    codec.decodes_slowly(asked)
    scheduling(asked.parameters)
    forms = codec.input_forms(asked)
    if sum(int(np.prod(form.shape, dtype=object)) for form in forms.values()) <= 2**20:
        arrays = codec.decode_inputs(asked, memory)
        assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == forms
    validate_inputs(SPECS, forms)


def model(data: bytes) -> None:
    """An ONNX file, up to the folded model; what the runtime does with it, a child process finds out."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "model.onnx")
        file.write_bytes(data)
        fold(read_model(file))


def configuration(data: bytes) -> None:
    """``foldserve.yaml``, ``config.pbtxt`` or JSON in a load request: the first byte says which."""
    name = CONFIGURATIONS[data[0] % len(CONFIGURATIONS)] if data else ""
    with tempfile.TemporaryDirectory() as repository:
        folder = Path(repository, "m")
        (folder / "1").mkdir(parents=True)
        if name:
            (folder / name).write_bytes(data[1:])
        override = None if name else data[1:].decode(errors="replace")
        read_configuration(look_at(folder, Path(repository)), SERVER, override)


def archive(data: bytes) -> None:
    """A ``.pt2`` archive before a child process is given it, and an archive of samples."""
    with tempfile.TemporaryDirectory() as folder:
        for name, read in (
            ("model.pt2", check_archive),
            ("samples.npz", lambda file: read_samples(file, SPECS[:1])),
        ):
            file = Path(folder, name)
            file.write_bytes(data)
            try:
                read(file)
            except FoldserveError:
                continue


def upload(data: bytes) -> None:
    """Paths of files in a load request, one on each line."""
    written("m", dict.fromkeys(data.decode(errors="replace").split("\n"), b""))


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (request, model, configuration, archive, upload)
}


def found_nothing(target: str, data: bytes) -> None:
    """Run a target; raises what it must not raise."""
    with suppress(FoldserveError):
        TARGETS[target](data)
