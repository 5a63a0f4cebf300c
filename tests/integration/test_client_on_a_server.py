"""foldserve_client against a real server: its methods, its page, its command."""

import asyncio
import json
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from foldserve.server import Server
from foldserve_client import AsyncClient, Client, FailedPrecondition, InvalidArgument, ResourceExhausted
from foldserve_client.commands import app
from foldserve_client.regions import OBJECTS
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray
from PIL import Image
from running import EXAMPLE_MODELS, ROOT, serving
from typer.testing import CliRunner

Digits = tuple[NDArray[np.float32], NDArray[np.int64]]
PAGE = (ROOT / "docs" / "client.md").read_text()
PYTHON, COMMANDS = (
    "\n".join(re.findall(f"```{language}\n(.*?)```", PAGE, re.DOTALL)) for language in ("python", "sh")
)


@pytest.fixture(scope="module")
def shared() -> Iterator[Server]:
    """A server that takes tensors in shared memory."""
    with serving(EXAMPLE_MODELS, shared_memory=True, instances=1, intra_op_threads=1) as server:
        yield server


def objects() -> set[str]:
    """Shared memory objects of clients that have a name."""
    return {file.name for file in OBJECTS.glob("foldserve-client-*")}


def test_what_the_page_shows_in_python_runs(
    server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    known: dict[str, Any] = {}
    exec(PYTHON.replace("localhost:8001", f"localhost:{server.grpc_port}"), known)
    known["client"].close()
    told = capsys.readouterr().out
    assert "[8, 2, 9, 2, 2, 8, 1, 8]" in told
    assert "did you mean 'digits'?" in told
    assert "convert it with .astype('float32')" in told


def test_the_commands_on_the_page_run(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    for line in COMMANDS.splitlines():
        program, *arguments = line.split()
        assert program == "foldserve-client"
        assert command(server, *arguments)


def test_a_batch_of_several_messages_is_joined_in_order(server: Server, digits: Digits) -> None:
    """14,400 rows of 256 bytes: four parts."""
    images = np.tile(digits[0], (40, 1, 1, 1))
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        once = client.infer("digits", digits[0]).output
        np.testing.assert_allclose(client.infer("digits", images).output, np.tile(once, (40, 1)), atol=1e-4)


async def test_the_asyncio_client_does_the_same(server: Server, digits: Digits) -> None:
    images = np.tile(digits[0], (40, 1, 1, 1))
    async with AsyncClient(f"127.0.0.1:{server.grpc_port}") as client:
        whole = await client.infer("digits", images)
        labels = [
            answer.result.output.argmax() async for answer in client.stream("digits", images[:50, None])
        ]
        classes = await client.classify("digits", images[:50], top=1)
    np.testing.assert_array_equal(whole.output[:50].argmax(axis=1), labels)
    assert [row[0].index for row in classes] == labels


def test_a_stream_reads_every_digit(server: Server, digits: Digits) -> None:
    images, labels = digits
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        answers = list(client.stream("digits", images[:, None], window=32))
    assert [answer.index for answer in answers] == list(range(len(images)))
    read = np.array([answer.result.output.argmax() for answer in answers])
    assert (read == labels).mean() > 0.98


def test_tensors_of_torch_are_arrays_and_must_have_the_dtype(server: Server, digits: Digits) -> None:
    torch = pytest.importorskip("torch")
    images = torch.from_numpy(digits[0][:3])
    with Client(f"127.0.0.1:{server.grpc_port}") as client:
        expected = client.infer("digits", digits[0][:3]).output
        np.testing.assert_array_equal(client.infer("digits", images).output, expected)
        with pytest.raises(InvalidArgument, match=r"got Tensor, an array of float64; .*'float32'"):
            client.infer("digits", images.double())
        with pytest.raises(InvalidArgument, match="requires grad"):
            client.infer("digits", images.requires_grad_())


@pytest.mark.parametrize("rows", [1, 2000])
def test_shared_memory_gives_the_same_answers(shared: Server, digits: Digits, rows: int) -> None:
    images = np.resize(digits[0], (rows, 1, 8, 8))
    address = f"127.0.0.1:{shared.grpc_port}"
    with Client(address) as plain, Client(address, shared_memory=True) as client:
        expected = plain.infer("digits", images).output
        first = client.infer("digits", images).output
        again = client.infer("digits", images[::-1]).output
        np.testing.assert_allclose(first, expected, atol=1e-5)
        np.testing.assert_allclose(again, expected[::-1], atol=1e-5)
        assert objects() == set()  # nothing to be left behind
        assert client.classify("digits", images, top=1)[0][0].index == expected[0].argmax()


async def test_shared_memory_serves_requests_side_by_side(shared: Server, digits: Digits) -> None:
    images = np.resize(digits[0], (1000, 1, 8, 8))
    async with AsyncClient(f"127.0.0.1:{shared.grpc_port}", shared_memory=True) as client:
        expected = (await client.infer("digits", images)).output
        answers = await asyncio.gather(*(client.infer("digits", np.roll(images, k, 0)) for k in range(8)))
        for k, answer in enumerate(answers):
            np.testing.assert_allclose(answer.output, np.roll(expected, k, 0), atol=1e-5)


def test_a_server_that_forgot_the_memory_is_told_of_it_anew(shared: Server, digits: Digits) -> None:
    images = np.resize(digits[0], (1000, 1, 8, 8))
    with Client(f"127.0.0.1:{shared.grpc_port}", shared_memory=True) as client:
        expected = client.infer("digits", images).output
        with grpc.insecure_channel(
            f"127.0.0.1:{shared.grpc_port}"
        ) as channel:  # all of them: as a restart does
            GRPCInferenceServiceStub(channel).SystemSharedMemoryUnregister(
                pb.SystemSharedMemoryUnregisterRequest()
            )
        np.testing.assert_allclose(client.infer("digits", images).output, expected, atol=1e-5)


def test_a_full_server_says_when_to_come_back_and_is_asked_again(digits: Digits) -> None:
    images = np.resize(digits[0], (256, 1, 8, 8))
    refused: list[ResourceExhausted] = []

    def ask(client: Client) -> None:
        try:
            client.infer("digits", images)
        except ResourceExhausted as error:
            refused.append(error)

    with (
        serving(EXAMPLE_MODELS, provider="cpu", instances=1, intra_op_threads=1, max_queue_size=1) as server,
        ThreadPoolExecutor(16) as pool,
        Client(f"127.0.0.1:{server.grpc_port}", retries=0) as once,
        Client(f"127.0.0.1:{server.grpc_port}", retries=4) as patient,
    ):
        deadline = time.monotonic() + 30
        while not refused:
            assert time.monotonic() < deadline
            list(pool.map(ask, [once] * 16))
        assert all(error.retry_after_s and error.model == "digits" for error in refused)
        refused.clear()
        list(pool.map(ask, [patient] * 3))
        assert not refused


def test_a_server_without_shared_memory_says_so(server: Server, digits: Digits) -> None:
    with (
        Client(f"127.0.0.1:{server.grpc_port}", shared_memory=True) as client,
        pytest.raises(FailedPrecondition, match="--shared-memory"),
    ):
        client.infer("digits", np.resize(digits[0], (1000, 1, 8, 8)))
    assert objects() == set()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, digits: Digits) -> list[str]:
    """The first held-out digits as PNG, one of them large and in colours."""
    folder = tmp_path_factory.mktemp("pictures")
    files = []
    for index, image in enumerate(digits[0][:5]):
        picture = Image.fromarray((image[0] * 255).round().astype(np.uint8))
        if index == 0:
            picture = picture.resize((64, 64), Image.Resampling.NEAREST).convert("RGB")
        files.append(str(folder / f"{index}.png"))
        picture.save(files[-1])
    return files


def command(server: Server, *arguments: str) -> str:
    address = f"127.0.0.1:{server.grpc_port}"
    ran = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--address", address])
    assert ran.exit_code == 0, ran.output
    return ran.output


def test_the_command_reads_digits_from_pictures(server: Server, digits: Digits, pictures: list[str]) -> None:
    answer = json.loads(command(server, "infer", "digits", *pictures, "--json"))
    assert [one["file"] for one in answer] == pictures
    assert [one["classes"][0]["index"] for one in answer] == digits[1][:5].tolist()
    assert [len(one["classes"]) for one in answer] == [5] * 5


def test_the_command_shows_the_best_classes_by_name(
    server: Server, digits: Digits, pictures: list[str], tmp_path: Path
) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"digit-{number}" for number in range(10)))
    table = command(server, "infer", "digits", *pictures, "--top", "2", "--labels", str(names))
    rows = [line for line in table.splitlines() if ".png" in line]
    assert [row.split()[1] for row in rows] == [f"digit-{label}" for label in digits[1][:5]]


def test_the_command_saves_the_outputs_for_pictures(
    server: Server, digits: Digits, pictures: list[str], tmp_path: Path
) -> None:
    command(server, "infer", "digits", *pictures, "--save", str(tmp_path / "out.npz"))
    with np.load(tmp_path / "out.npz") as outputs:
        assert outputs["logits"].argmax(axis=1).tolist() == digits[1][:5].tolist()
    assert "float32" in command(server, "infer", "digits", *pictures, "--top", "0")
