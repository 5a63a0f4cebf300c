"""The asyncio client."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2 import (
    ModelMetadataResponse,
)
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub

from foldserve_client.aio_control import AsyncControl
from foldserve_client.connection import (
    DEFAULT_RETRIES,
    Addresses,
    Compression,
    Connection,
    Deadline,
    Tls,
)
from foldserve_client.defaults import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from foldserve_client.errors import CLOSED, Cancelled, ClientError, Unavailable
from foldserve_client.inference import Asked, InferResult, Inputs, Parameter
from foldserve_client.inferring import ClassScore, Inferring
from foldserve_client.regions import UNREGISTER_S, Regions
from foldserve_client.steps import AT_ONCE, Call, Exchange, Pause, Stubs, Together
from foldserve_client.streaming import DEFAULT_WINDOW, Event, StreamAnswer, Window

Result = TypeVar("Result")

WRITE_FAILED = "Internal error from Core"
"""What gRPC says instead of the server's status where that came while it was writing."""

END: Any = object()
"""No input is this."""


class AsyncClient(AsyncControl):
    """A connection to a foldserve server, or several, for one event loop; an async context manager.

    Every method raises a :class:`~foldserve_client.errors.ClientError` where the server refuses or cannot be
    reached. ``timeout_s`` covers the whole method; None in a method means the client's own, None in the
    client, or ``math.inf`` in either, means none. An empty ``version`` leaves the choice to the server.

    In the examples ``client`` is connected to ``localhost:8001``, ``manager`` to the management address,
    ``localhost:8003``, and ``await`` works as it does in ``python -m asyncio``.

    >>> images = np.load("examples/data/digits_test.npz")["images"]
    >>> async with AsyncClient("localhost:8001") as client:
    ...     (await client.infer("digits", images)).output.shape
    (360, 10)
    """

    def __init__(
        self,
        addresses: Addresses = DEFAULT_ADDRESS,
        *,
        tls: Tls | None = None,
        token: str | None = None,
        compression: Compression | None = None,
        retries: int = DEFAULT_RETRIES,
        timeout_s: float | None = DEFAULT_TIMEOUT_S,
        shared_memory: bool = False,
    ) -> None:
        """Connect with the first call; raises ValueError for arguments that cannot work.

        Made where an event loop runs, for that loop: raises RuntimeError elsewhere.

        ``addresses`` is ``"host:port"``, ``"unix:/path"`` or a list of ``"host:port"``, which take turns and
        are left out while they do not serve; with ``"dns:///host:port"`` all addresses of that name take
        turns. ``token`` goes with every request. ``retries`` counts further tries of a request that only asks
        or infers: where the server is not reached or does not serve, and where it is full and says when to
        come back. ``timeout_s`` is the default of every method. ``shared_memory`` passes larger tensors in
        shared memory, for a server on this machine that was started with ``--shared-memory``.
        """
        connection = Connection.to(addresses, tls=tls, token=token, compression=compression, retries=retries)
        if shared_memory and connection.takes_turns:
            raise ValueError("shared memory is for one server: give one address")
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            raise RuntimeError("make an AsyncClient inside a coroutine: it is for one event loop") from None
        self._connection = connection
        self._channel = (
            grpc.aio.insecure_channel(connection.target, connection.options)
            if tls is None
            else grpc.aio.secure_channel(connection.target, tls.credentials(), connection.options)
        )
        inference = GRPCInferenceServiceStub(self._channel)
        self._stubs = Stubs(inference, FoldServiceStub(self._channel))
        self._open_stream = inference.ModelStreamInfer
        self._regions = Regions() if shared_memory else None
        self._inferring = Inferring(connection.retries, self._regions)
        self._timeout_s = timeout_s
        self._is_closed = False

    async def infer(
        self,
        model: str,
        inputs: Inputs,
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> InferResult:
        """Run a model once.

        ``inputs`` is one array for a model with one input, else arrays by name; what numpy can view as one is
        an array: torch's tensors, PIL's images. Arrays must have the dtype that the model declares; lists and
        numbers are converted to it. ``outputs`` names the outputs to return, empty for all. A batch that
        the server would not take at once is sent in parts, side by side, and the answers are joined in order.

        >>> (await client.infer("digits", images, outputs=["logits"]))["logits"].shape
        (360, 10)
        """
        asked = Asked(version, outputs, request_id, parameters or {})
        return await self._run(self._inferring.infer(model, inputs, asked), timeout_s)

    async def stream(
        self,
        model: str,
        inputs: Iterable[Inputs] | AsyncIterable[Inputs],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        window: int = DEFAULT_WINDOW,
        ordered: bool = True,
        timeout_s: float | None = None,
    ) -> AsyncIterator[StreamAnswer]:
        """Run a model many times over one stream, each time on the next of ``inputs``.

        ``inputs`` is read, by another thread where it is not asynchronous, no faster than so that at most
        ``window`` requests are sent or answered but not yet taken. Answers come in the order of the inputs;
        with ``ordered=False`` as they are ready. A request that fails has its error in its answer and ends
        nothing; the stream ends with an exception where the connection or ``inputs`` fails. Its requests are
        called ``<request_id>/0`` and so on. ``timeout_s`` is for the whole stream, without limit unless
        given.

        >>> async for answer in client.stream("digits", images[:3, None]):
        ...     print(answer.index, answer.result.output.argmax())
        0 8
        1 2
        2 9
        """
        deadline = Deadline.after(timeout_s)
        signature = await self._run(self._inferring.signature(model, version), timeout_s)
        requests = Window(
            signature, Asked(version, outputs, request_id, parameters or {}), window, ordered=ordered
        )
        places = asyncio.Semaphore(window)
        events: asyncio.Queue[Event] = asyncio.Queue()
        remaining = _each(inputs)

        async def write() -> None:
            try:
                while await places.acquire():
                    made = requests.next_request(await anext(remaining))
                    if isinstance(made, StreamAnswer):
                        events.put_nowait(made)
                    else:
                        await call.write(made)
            except StopAsyncIteration:
                requests.close()
                await call.done_writing()
            except (grpc.RpcError, asyncio.InvalidStateError):
                return  # the stream has ended; reading tells why
            except Exception as error:
                events.put_nowait(error)

        async def read() -> None:
            try:
                async for response in call:
                    events.put_nowait(requests.answer(response))
                events.put_nowait(None)
            except grpc.RpcError as error:
                ended = Unavailable("the server ended the stream while a request was on its way")
                events.put_nowait(ended if error.details() == WRITE_FAILED else self._connection.error(error))
            except asyncio.CancelledError:
                events.put_nowait(Cancelled(CLOSED))  # or nobody listens any more
            except Exception as error:  # an answer that cannot be read must end the stream, not this task
                events.put_nowait(error)

        call = self._open_stream(
            timeout=deadline.remaining(),
            metadata=self._connection.metadata,
            compression=self._connection.compression,
        )
        tasks = [asyncio.create_task(write()), asyncio.create_task(read())]
        try:
            while (event := await events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                for answer in requests.tell(event):
                    yield answer
                    places.release()
            requests.check_end()
        finally:
            call.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def classify(
        self,
        model: str,
        inputs: Inputs,
        *,
        top: int = 5,
        output: str | None = None,
        version: str = "",
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        timeout_s: float | None = None,
    ) -> list[list[ClassScore]]:
        """The ``top`` classes of each row, the best one first, as the server names them.

        ``output`` is the one that has the scores, for a model with several.

        >>> ((best, second),) = await client.classify("digits", images[:1], top=2)
        >>> best.index, best.value > second.value
        (8, True)
        """
        asked = Asked(version, request_id=request_id, parameters=parameters or {})
        return await self._run(self._inferring.classify(model, inputs, top, output, asked), timeout_s)

    async def model_metadata(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> ModelMetadataResponse:
        """A model's versions, inputs, outputs and properties.

        >>> (taken,) = (await client.model_metadata("digits")).inputs
        >>> taken.name, taken.datatype, list(taken.shape)
        ('images', 'FP32', [-1, 1, 8, 8])
        """
        return await self._run(self._inferring.metadata(model, version), timeout_s)

    async def close(self) -> None:
        """Close the connection; calls in flight are cancelled, later ones refused.

        >>> await client.close()
        >>> await client.live()
        Traceback (most recent call last):
        foldserve_client.errors.Cancelled: CANCELLED: the client is closed
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._regions is not None:
            await self._carry_out(self._regions.unregister(), Deadline.after(UNREGISTER_S))
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def _run(self, exchange: Exchange[Result], timeout_s: float | None) -> Result:
        if self._is_closed:
            raise Cancelled(CLOSED)
        deadline = Deadline.after(self._timeout_s if timeout_s is None else timeout_s)
        try:
            return await self._carry_out(exchange, deadline)
        except (asyncio.CancelledError, grpc.aio.UsageError):
            task = asyncio.current_task()
            if self._is_closed and (task is None or not task.cancelling()):
                raise Cancelled(CLOSED) from None  # gRPC's cancellation, not the caller's
            raise

    async def _carry_out(self, exchange: Exchange[Result], deadline: Deadline) -> Result:
        try:
            step = next(exchange)
            while True:
                try:
                    if isinstance(step, Call):
                        taken = await self._call(step, deadline)
                    else:
                        taken = await self._take(step, deadline)
                except ClientError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(taken)
        except StopIteration as finished:
            result: Result = finished.value
            return result

    async def _take(self, step: Pause | Together[Any], deadline: Deadline) -> Any:
        match step:
            case Pause(seconds):
                if is_possible := deadline.allows(seconds):
                    await asyncio.sleep(seconds)
                return is_possible
            case Together(exchanges):
                return await self._together(exchanges, deadline)

    async def _call(self, call: Call[Any, Any], deadline: Deadline) -> Any:
        connection = self._connection
        try:
            return await call.method(self._stubs)(
                call.request,
                timeout=deadline.remaining(),
                metadata=connection.metadata,
                compression=connection.compression,
            )
        except grpc.RpcError as error:
            raise connection.error(error, call.request) from None

    async def _together(self, exchanges: Sequence[Exchange[Result]], deadline: Deadline) -> list[Result]:
        places = asyncio.Semaphore(AT_ONCE)

        async def carry_out(exchange: Exchange[Result]) -> Result:
            async with places:
                return await self._carry_out(exchange, deadline)

        tasks = [asyncio.create_task(carry_out(exchange)) for exchange in exchanges]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()


async def _each(items: Iterable[Result] | AsyncIterable[Result]) -> AsyncIterator[Result]:
    if isinstance(items, AsyncIterable):
        async for item in items:
            yield item
        return
    iterator = iter(items)
    while (item := await asyncio.to_thread(next, iterator, END)) is not END:
        yield item
