"""The sync client."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
from foldserve_proto.fold_service_pb2_grpc import FoldServiceStub
from foldserve_proto.grpc_service_pb2 import (
    ModelInferRequest,
    ModelMetadataResponse,
)
from foldserve_proto.grpc_service_pb2_grpc import GRPCInferenceServiceStub

from foldserve_client.connection import (
    DEFAULT_RETRIES,
    Addresses,
    Compression,
    Connection,
    Deadline,
    Tls,
)
from foldserve_client.control import Control
from foldserve_client.defaults import DEFAULT_ADDRESS, DEFAULT_TIMEOUT_S
from foldserve_client.errors import CLOSED, Cancelled, ClientError
from foldserve_client.inference import Asked, InferResult, Inputs, Parameter
from foldserve_client.inferring import ClassScore, Inferring
from foldserve_client.regions import UNREGISTER_S, Regions
from foldserve_client.steps import AT_ONCE, Call, Exchange, Pause, Stubs, Together
from foldserve_client.streaming import DEFAULT_WINDOW, Event, StreamAnswer, Window

Response = TypeVar("Response")
Result = TypeVar("Result")


class Client(Control):
    """A connection to a foldserve server, or several, which threads may share; a context manager.

    Every method raises a :class:`~foldserve_client.errors.ClientError` where the server refuses or cannot be
    reached. ``timeout_s`` covers the whole method; None in a method means the client's own, None in the
    client, or ``math.inf`` in either, means none. An empty ``version`` leaves the choice to the server.

    In the examples ``client`` is connected to ``localhost:8001``, ``manager`` to the management address,
    ``localhost:8003``.

    >>> images = np.load("examples/data/digits_test.npz")["images"]
    >>> with Client("localhost:8001") as client:
    ...     client.infer("digits", images).output.shape
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
        self._connection = connection
        self._channel = (
            grpc.insecure_channel(connection.target, connection.options)
            if tls is None
            else grpc.secure_channel(connection.target, tls.credentials(), connection.options)
        )
        self._stubs = Stubs(GRPCInferenceServiceStub(self._channel), FoldServiceStub(self._channel))
        self._regions = Regions() if shared_memory else None
        self._inferring = Inferring(connection.retries, self._regions)
        self._timeout_s = timeout_s
        self._workers: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._is_closed = False

    def infer(
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

        >>> client.infer("digits", images, outputs=["logits"])["logits"].shape
        (360, 10)
        """
        asked = Asked(version, outputs, request_id, parameters or {})
        return self._run(self._inferring.infer(model, inputs, asked), timeout_s)

    def stream(
        self,
        model: str,
        inputs: Iterable[Inputs],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        request_id: str = "",
        parameters: Mapping[str, Parameter] | None = None,
        window: int = DEFAULT_WINDOW,
        ordered: bool = True,
        timeout_s: float | None = None,
    ) -> Iterator[StreamAnswer]:
        """Run a model many times over one stream, each time on the next of ``inputs``.

        ``inputs`` is read by another thread, and no faster than so that at most ``window`` requests are sent
        or answered but not yet taken. Answers come in the order of the inputs; with ``ordered=False`` as they
        are ready. A request that fails has its error in its answer and ends nothing; the stream ends with an
        exception where the connection or ``inputs`` fails. Its requests are called ``<request_id>/0`` and so
        on. ``timeout_s`` is for the whole stream, without limit unless given.

        >>> for answer in client.stream("digits", images[:3, None]):
        ...     print(answer.index, answer.result.output.argmax())
        0 8
        1 2
        2 9
        """
        deadline = Deadline.after(timeout_s)
        signature = self._run(self._inferring.signature(model, version), timeout_s)
        requests = Window(
            signature, Asked(version, outputs, request_id, parameters or {}), window, ordered=ordered
        )
        places = threading.Semaphore(window)
        events: SimpleQueue[Event] = SimpleQueue()
        ended = threading.Event()

        def write() -> Iterator[ModelInferRequest]:
            remaining = iter(inputs)
            while places.acquire() and not ended.is_set():
                try:
                    made = requests.next_request(next(remaining))
                except StopIteration:
                    requests.close()
                    return
                except Exception as error:
                    events.put(error)
                    return
                if isinstance(made, StreamAnswer):
                    events.put(made)
                else:
                    yield made

        def read() -> None:
            try:
                for response in call:
                    events.put(requests.answer(response))
                events.put(None)
            except grpc.RpcError as error:
                events.put(self._connection.error(error))
            except Exception as error:  # an answer that cannot be read must end the stream, not this thread
                events.put(error)

        call = self._stubs.inference.ModelStreamInfer(
            write(), deadline.remaining(), self._connection.metadata, compression=self._connection.compression
        )
        threading.Thread(target=read, name="foldserve-client-stream", daemon=True).start()
        try:
            while (event := events.get()) is not None:
                if isinstance(event, Exception):
                    raise event
                for answer in requests.tell(event):
                    yield answer
                    places.release()
            requests.check_end()
        finally:
            ended.set()
            places.release()
            call.cancel()

    def classify(
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

        >>> ((best, second),) = client.classify("digits", images[:1], top=2)
        >>> best.index, best.value > second.value
        (8, True)
        """
        asked = Asked(version, request_id=request_id, parameters=parameters or {})
        return self._run(self._inferring.classify(model, inputs, top, output, asked), timeout_s)

    def model_metadata(
        self, model: str, *, version: str = "", timeout_s: float | None = None
    ) -> ModelMetadataResponse:
        """A model's versions, inputs, outputs and properties.

        >>> (taken,) = client.model_metadata("digits").inputs
        >>> taken.name, taken.datatype, list(taken.shape)
        ('images', 'FP32', [-1, 1, 8, 8])
        """
        return self._run(self._inferring.metadata(model, version), timeout_s)

    def close(self) -> None:
        """Close the connection; calls in flight are cancelled, later ones refused.

        >>> client.close()
        >>> client.live()
        Traceback (most recent call last):
        foldserve_client.errors.Cancelled: CANCELLED: the client is closed
        """
        if self._is_closed:
            return
        self._is_closed = True
        if self._regions is not None:
            self._carry_out(self._regions.unregister(), Deadline.after(UNREGISTER_S))
        if self._workers is not None:
            self._workers.shutdown(wait=False, cancel_futures=True)
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self, exchange: Exchange[Result], timeout_s: float | None) -> Result:
        if self._is_closed:
            raise Cancelled(CLOSED)
        deadline = Deadline.after(self._timeout_s if timeout_s is None else timeout_s)
        try:
            return self._carry_out(exchange, deadline)
        except (ValueError, RuntimeError, CancelledError):  # gRPC's and the workers' ways to say so
            if self._is_closed:
                raise Cancelled(CLOSED) from None
            raise

    def _carry_out(self, exchange: Exchange[Result], deadline: Deadline) -> Result:
        try:
            step = next(exchange)
            while True:
                try:
                    if isinstance(step, Call):
                        taken = self._call(step, deadline)
                    else:
                        taken = self._take(step, deadline)
                except ClientError as error:
                    step = exchange.throw(error)
                else:
                    step = exchange.send(taken)
        except StopIteration as finished:
            result: Result = finished.value
            return result

    def _take(self, step: Pause | Together[Any], deadline: Deadline) -> Any:
        match step:
            case Pause(seconds):
                if is_possible := deadline.allows(seconds):
                    time.sleep(seconds)
                return is_possible
            case Together(exchanges):
                return self._together(exchanges, deadline)

    def _call(self, call: Call[Any, Response], deadline: Deadline) -> Response:
        connection = self._connection
        try:
            return call.method(self._stubs)(
                call.request,
                timeout=deadline.remaining(),
                metadata=connection.metadata,
                compression=connection.compression,
            )
        except grpc.RpcError as error:
            raise connection.error(error, call.request) from None

    def _together(self, exchanges: Sequence[Exchange[Result]], deadline: Deadline) -> list[Result]:
        with self._lock:
            if self._workers is None:
                self._workers = ThreadPoolExecutor(AT_ONCE, "foldserve-client")
        futures = [self._workers.submit(self._carry_out, exchange, deadline) for exchange in exchanges]
        try:
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()
