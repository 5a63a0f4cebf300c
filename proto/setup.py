"""Generates the Python side of the contract from the .proto files, before setuptools collects the package.

For each ``<name>.proto``:

    <name>_pb2.py        the serialized descriptor; foldserve_proto._descriptors makes the classes from it
    <name>_pb2_grpc.py   stubs and servicers, by gRPC's own plugin (empty without a service)
    <name>_pb2*.pyi      types of both, by mypy-protobuf
"""

import os
import shutil
import sysconfig
import tempfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
PACKAGE = "foldserve_proto"

MODULE = '''"""Messages of {proto}; generated, do not edit."""

{imports}
DESCRIPTOR = define(globals(), {serialized!r})
'''


def generate() -> None:
    """Write the generated modules beside their .proto files."""
    # Imported here: commands that build nothing (egg_info) need no generator.
    from google.protobuf.descriptor_pb2 import FileDescriptorSet  # noqa: PLC0415  # see above
    from grpc_tools import protoc  # noqa: PLC0415  # see above

    protos = sorted(str(path.relative_to(ROOT)) for path in (ROOT / PACKAGE).glob("*.proto"))
    with tempfile.NamedTemporaryFile() as descriptors:
        arguments = [
            "protoc",
            f"--proto_path={ROOT}",
            f"--descriptor_set_out={descriptors.name}",
            f"--grpc_python_out={ROOT}",
            f"--plugin=protoc-gen-mypy={_tool('protoc-gen-mypy')}",
            f"--mypy_out=quiet:{ROOT}",
            f"--plugin=protoc-gen-mypy_grpc={_tool('protoc-gen-mypy_grpc')}",
            f"--mypy_grpc_out=quiet,generate_concrete_servicer_stubs:{ROOT}",
            *protos,
        ]
        if protoc.main(arguments) != 0:
            raise SystemExit("protoc failed, see above")
        for file in FileDescriptorSet.FromString(Path(descriptors.name).read_bytes()).file:
            target = ROOT / file.name.replace(".proto", "_pb2.py")
            target.write_text(_module(file.name, list(file.dependency), file.SerializeToString()))


def _module(proto: str, dependencies: list[str], serialized: bytes) -> str:
    # A dependency's descriptor must be in the pool first; importing its module puts it there.
    modules = [name.removesuffix(".proto").replace("/", ".") + "_pb2" for name in dependencies]
    imports = [*(f"import {module}" for module in modules), f"from {PACKAGE}._descriptors import define"]
    return MODULE.format(proto=proto, imports="\n".join(imports), serialized=serialized)


def _tool(name: str) -> str:
    """Path of a build tool: on PATH in an isolated build, else beside the running Python."""
    search = os.pathsep.join([os.environ.get("PATH", os.defpath), sysconfig.get_path("scripts")])
    path = shutil.which(name, path=search)
    if path is None:
        raise SystemExit(f"{name} not found: pip install mypy-protobuf")
    return path


class BuildPy(build_py):
    """build_py that generates the modules first."""

    def run(self) -> None:
        """Generate, then build."""
        generate()
        super().run()


setup(cmdclass={"build_py": BuildPy})
