"""Both clients against a real server."""

import asyncio
import json
import math
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from foldserve_client import (
    AsyncClient,
    Cancelled,
    Client,
    ClientError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from PIL import Image
from unit.client.both import AnyClient
from unit.client.echo import EchoServicer, ReportServicer

IMAGES = np.arange(8, dtype=np.float32).reshape(2, 4)


def test_infer_on_the_only_input_gives_the_only_output(client: AnyClient, echo: EchoServicer) -> None:
    result = client.infer("echo", IMAGES)
    np.testing.assert_array_equal(result.output, IMAGES)
    assert result.output.dtype == np.float32
    assert list(result) == ["y"]
    assert (result.model_name, result.model_version) == ("echo", "1")
    assert not echo.requests[0].inputs[0].HasField("contents")


def test_infer_by_name_with_everything_that_can_be_asked(client: AnyClient, echo: EchoServicer) -> None:
    result = client.infer(
        "pair",
        {"b": np.array(["é", b"\x00"], object), "a": [1, 2]},
        version="1",
        outputs=["d"],
        request_id="r1",
        parameters={"flag": True, "count": -3, "share": 0.5, "name": "n"},
    )
    assert result["d"].tolist() == ["é".encode(), b"\x00"]
    assert list(result) == ["d"]
    assert result.request_id == "r1"
    (request,) = echo.requests
    assert request.model_version == "1"
    assert request.parameters["flag"].bool_param is True
    assert request.parameters["count"].int64_param == -3
    assert request.parameters["share"].double_param == 0.5
    assert request.parameters["name"].string_param == "n"


def test_only_output_of_several_is_refused_naming_them(client: AnyClient) -> None:
    result = client.infer("pair", {"a": [1], "b": ["x"]})
    with pytest.raises(ValueError, match="c, d"):
        _ = result.output


def test_messages_beyond_the_default_limit_of_grpc_pass(client: AnyClient, echo: EchoServicer) -> None:
    large = np.ones((400_000, 4), np.float32)  # 6.4 MB; gRPC's own limit is 4 MiB
    echo.serve("large", [("x", "FP32", [-1, -1])], ["y"])
    np.testing.assert_array_equal(client.infer("large", large).output, large)


def test_metadata_is_read_once(client: AnyClient, echo: EchoServicer) -> None:
    client.infer("echo", IMAGES)
    client.infer("echo", IMAGES)
    assert len(echo.metadata_requests) == 1
    assert len(echo.requests) == 2


def test_a_replaced_model_is_noticed_before_sending(client: AnyClient, echo: EchoServicer) -> None:
    client.infer("echo", IMAGES)
    echo.serve("echo", [("z", "FP64", [-1])], ["y"])
    result = client.infer("echo", {"z": np.ones(3)})
    np.testing.assert_array_equal(result.output, np.ones(3))


def test_a_replaced_model_is_noticed_by_the_servers_refusal(client: AnyClient, echo: EchoServicer) -> None:
    client.infer("echo", IMAGES)
    echo.serve("echo", [("renamed", "FP32", [-1, 4])], ["y"])
    np.testing.assert_array_equal(client.infer("echo", IMAGES).output, IMAGES)


def test_a_refusal_stands_if_the_metadata_is_the_same(client: AnyClient, echo: EchoServicer) -> None:
    client.infer("echo", IMAGES)
    echo.failures["echo"] = (grpc.StatusCode.INVALID_ARGUMENT, "not this one")
    with pytest.raises(InvalidArgument, match="INVALID_ARGUMENT: not this one"):
        client.infer("echo", IMAGES)
    assert len(echo.requests) == 2


def test_a_refusal_stands_where_the_server_cannot_be_asked(client: AnyClient, echo: EchoServicer) -> None:
    client.infer("echo", IMAGES)
    echo.tells_metadata = False
    with pytest.raises(InvalidArgument, match="got an array of float64"):
        client.infer("echo", IMAGES.astype(np.float64))


def test_smaller_batches_are_noticed_by_the_servers_refusal(client: AnyClient, echo: EchoServicer) -> None:
    rows = np.arange(80, dtype=np.float32).reshape(20, 4)
    client.infer("echo", rows)
    echo.max_batch_sizes["echo"] = 3
    np.testing.assert_array_equal(client.infer("echo", rows).output, rows)
    assert echo.config_requests == 2
    np.testing.assert_array_equal(client.infer("echo", rows).output, rows)
    assert echo.config_requests == 2


def test_images_are_arrays(client: AnyClient, echo: EchoServicer) -> None:
    echo.serve("image", [("x", "UINT8", [-1, -1, 3])], ["y"])
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(client.infer("image", Image.fromarray(pixels)).output, pixels)
    with pytest.raises(InvalidArgument, match=r"got Image, an array of uint8; .*'float32'"):
        client.infer("echo", Image.fromarray(pixels))


def test_a_wrong_array_is_refused_before_sending(client: AnyClient, echo: EchoServicer) -> None:
    with pytest.raises(InvalidArgument, match=r"input 'x' \(FP32 \[-1, 4\]\): got an array of float64"):
        client.infer("echo", IMAGES.astype(np.float64))
    assert echo.requests == []


def test_an_unknown_model_is_not_found(client: AnyClient) -> None:
    with pytest.raises(NotFound, match="no model 'none'") as caught:
        client.infer("none", IMAGES)
    assert caught.value.code is grpc.StatusCode.NOT_FOUND
    assert caught.value.details == "no model 'none'"
    assert caught.value.model == "none"


def test_a_model_that_lacks_a_version_is_not_mistaken_for_another(
    client: AnyClient, echo: EchoServicer
) -> None:
    echo.serve("echo_2", [("x", "FP32", [-1, 4])], ["y"])
    echo.refused_version = "9"
    with pytest.raises(NotFound) as caught:
        client.infer("echo", IMAGES, version="9")
    assert caught.value.details == "model 'echo' has no version 9"


def test_a_limit_that_another_thread_forgets_is_still_known(address: str) -> None:
    class Forgotten(dict[tuple[str, str], int]):
        def __setitem__(self, key: tuple[str, str], value: int) -> None:
            """Gone at once."""

    with Client(address) as client:
        client._inferring._max_batch_sizes = Forgotten()
        np.testing.assert_array_equal(client.infer("echo", IMAGES).output, IMAGES)


def test_a_code_without_a_class_of_its_own_is_kept(client: AnyClient, echo: EchoServicer) -> None:
    echo.failures["echo"] = (grpc.StatusCode.DATA_LOSS, "")
    with pytest.raises(ClientError) as caught:
        client.infer("echo", IMAGES)
    assert type(caught.value) is ClientError
    assert caught.value.code is grpc.StatusCode.DATA_LOSS


def test_the_timeout_of_a_method_ends_it(client: AnyClient, echo: EchoServicer) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"])
    with pytest.raises(DeadlineExceeded, match="did not answer within the timeout"):
        client.infer("stuck", IMAGES, timeout_s=0.3)


def test_a_method_may_take_as_long_as_it_wants_where_the_client_does_not(
    address: str, echo: EchoServicer
) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"])
    with Client(address, timeout_s=0.3) as client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.infer, "stuck", IMAGES, timeout_s=math.inf)
        with pytest.raises(DeadlineExceeded):
            client.infer("stuck", IMAGES)
        while len(echo.requests) < 2:
            assert not waiting.done()
        echo.stuck.set()
        np.testing.assert_array_equal(waiting.result(10).output, IMAGES)


def test_the_timeout_covers_reading_the_metadata_too(client: AnyClient, echo: EchoServicer) -> None:
    with pytest.raises(DeadlineExceeded):
        client.infer("echo", IMAGES, timeout_s=0.0)
    assert echo.requests == []


def test_models_are_listed_loaded_and_unloaded(client: AnyClient, echo: EchoServicer) -> None:
    def listed(repository: str = "") -> dict[str, tuple[str, str]]:
        return {one.name: (one.state, one.reason) for one in client.repository_index(repository).models}

    client.unload_model("echo")
    assert listed() == {"echo": ("UNAVAILABLE", "unloaded"), "pair": ("READY", "")}
    client.load_model("echo")
    assert listed("here") == {"echo": ("READY", ""), "pair": ("READY", "")}
    assert listed("elsewhere") == {}
    assert not echo.loads[0].parameters
    with pytest.raises(NotFound, match="no model 'none'"):
        client.load_model("none")


def test_a_load_may_bring_configuration_and_files(client: AnyClient, echo: EchoServicer) -> None:
    client.load_model("echo", config={"max_batch_size": 3})
    client.load_model("echo", files={"1/model.onnx": b"\x00content"})
    (with_config, with_files) = (load.parameters for load in echo.loads)
    assert {name: json.loads(one.string_param) for name, one in with_config.items()} == {
        "config": {"max_batch_size": 3}
    }
    assert with_files["file:1/model.onnx"].bytes_param == b"\x00content"
    assert with_files["config"].string_param == "{}"


def test_configuration_and_statistics(client: AnyClient) -> None:
    assert client.model_config("echo").max_batch_size == 8
    assert [one.name for one in client.statistics().model_stats] == ["echo", "pair"]
    (statistics,) = client.statistics("pair", version="7").model_stats
    assert (statistics.name, statistics.version, statistics.execution_count) == ("pair", "7", 3)


def test_health(client: AnyClient, echo: EchoServicer) -> None:
    assert client.live()
    assert client.ready()
    assert client.ready("echo")
    assert client.ready("echo", version="1")
    assert not client.ready("echo", version="2")
    assert not client.ready("none")
    echo.is_ready = False
    assert not client.ready()


def test_metadata(client: AnyClient) -> None:
    assert client.server_metadata().extensions == ["binary_tensor_data"]
    metadata = client.model_metadata("echo")
    assert [(t.name, t.datatype, list(t.shape)) for t in metadata.inputs] == [("x", "FP32", [-1, 4])]


def test_reports(client: AnyClient) -> None:
    fold = client.fold_report("echo", version="7")
    assert (fold.model_name, fold.model_version) == ("echo", "7")
    assert [site.outcome for site in fold.report.sites] == ["folded", "stayed", "folded"]
    assert client.parity("echo").report.outputs[0].top1_agreement == 1.0
    assert client.drift("echo").drift.overall.variance == 0.5


def test_a_fallback_is_told_of_and_reset(client: AnyClient, reports: ReportServicer) -> None:
    assert not client.parity("echo").HasField("fallback")
    reports.has_fallen_back = True
    assert client.parity("echo").live.checks["breach"] == 3
    assert client.reset_fallback("echo").was_active
    assert not client.reset_fallback("echo").was_active


def test_a_server_that_is_not_there_is_unavailable() -> None:
    with Client("127.0.0.1:1") as client, pytest.raises(Unavailable):
        client.live()


def test_a_closed_client_says_so(client: AnyClient) -> None:
    client.infer("echo", IMAGES)
    client.close()
    client.close()
    with pytest.raises(Cancelled, match="the client is closed"):
        client.infer("echo", IMAGES)
    with pytest.raises(Cancelled, match="the client is closed"):
        client.live()


@pytest.mark.parametrize("rows", [2, 200])
def test_closing_ends_what_is_out(address: str, echo: EchoServicer, rows: int) -> None:
    """Also a batch in parts, some of which wait for their turn."""
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"], max_batch_size=8)
    batch = np.zeros((rows, 4), np.float32)
    client = Client(address)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.infer, "stuck", batch)
        while not echo.requests:
            assert not waiting.done()
        client.close()
        with pytest.raises(Cancelled):
            waiting.result(10)


@pytest.mark.parametrize("rows", [2, 200])
async def test_closing_ends_what_is_out_with_asyncio(address: str, echo: EchoServicer, rows: int) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"], max_batch_size=8)
    client = AsyncClient(address)
    waiting = asyncio.create_task(client.infer("stuck", np.zeros((rows, 4), np.float32)))
    while not echo.requests:
        await asyncio.sleep(0.01)
    await client.close()
    with pytest.raises(Cancelled, match="the client is closed"):
        await waiting


def test_an_asyncio_client_is_made_where_its_loop_runs(address: str) -> None:
    with pytest.raises(RuntimeError, match="inside a coroutine"):
        AsyncClient(address)


def test_arguments_that_cannot_work_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match="compression is 'zstd'; gzip and deflate are possible"):
        Client(address, compression="zstd")  # type: ignore[arg-type]  # what a caller without mypy may write
    with pytest.raises(ValueError, match="token has characters"):
        Client(address, token="secret\n")


async def test_asyncio_requests_run_side_by_side(address: str, echo: EchoServicer) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"])
    async with AsyncClient(address, timeout_s=10) as client:
        waiting = asyncio.create_task(client.infer("stuck", IMAGES))
        answers = await asyncio.gather(*(client.infer("echo", IMAGES + i) for i in range(3)))
        assert not waiting.done()
        for i, answer in enumerate(answers):
            np.testing.assert_array_equal(answer.output, IMAGES + i)
        echo.stuck.set()
        np.testing.assert_array_equal((await waiting).output, IMAGES)


async def test_an_asyncio_request_can_be_cancelled(address: str, echo: EchoServicer) -> None:
    echo.serve("stuck", [("x", "FP32", [-1, 4])], ["y"])
    async with AsyncClient(address, timeout_s=10) as client:
        waiting = asyncio.create_task(client.infer("stuck", IMAGES))
        await client.infer("echo", IMAGES)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        np.testing.assert_array_equal((await client.infer("echo", IMAGES)).output, IMAGES)
