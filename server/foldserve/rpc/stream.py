"""ModelStreamInfer: many requests over one stream, each answered as soon as it is done.

A stream has a thread that reads requests and hands them over, and one that writes responses. A place in the
stream is taken when a request is read and given back when its response is written, so a caller that does not
read holds up only itself.
"""

import threading
import time
from collections.abc import Callable, Iterator
from queue import SimpleQueue

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

from foldserve.errors import LimitReached
from foldserve.rpc.inference import Done, Start, deadline_of
from foldserve.rpc.outcome import Outcome, Outcomes

METHOD = "ModelStreamInfer"
FINAL_RESPONSE = "triton_final_response"
"""Response parameter of Triton's: true on the last response to a request; here there is one to each."""

Respond = Callable[[pb.ModelStreamInferResponse], None]


class Stream:
    """One stream's requests in work and responses to write.

    ``begin`` takes a request and responds to it later, from any thread; ``places`` of them may be in work.
    """

    def __init__(
        self,
        requests: Iterator[pb.ModelInferRequest],
        begin: Callable[[pb.ModelInferRequest, Respond], None],
        places: int,
    ) -> None:
        self._requests = requests
        self._begin = begin
        self._places = places
        self._free = threading.Semaphore(places)
        self._responses: SimpleQueue[pb.ModelStreamInferResponse | None] = SimpleQueue()
        self._finishing = threading.Lock()
        self._abandoned = False

    def responses(self) -> Iterator[pb.ModelStreamInferResponse]:
        """What to write, until all requests are answered or the stream is abandoned."""
        threading.Thread(target=self._read, name="stream-reader", daemon=True).start()
        while (response := self._responses.get()) is not None:
            yield response
            self._free.release()

    def finish(self) -> None:
        """Wait until everything that was read is answered and written; then the responses end."""
        if self._finishing.acquire(blocking=False):
            for _ in range(self._places):
                self._free.acquire()
            self._responses.put(None)

    def abandon(self) -> None:
        """Let go of whoever waits for a place or a response: the caller is gone, or everything is done."""
        self._abandoned = True
        self._free.release(self._places + 1)  # as many as finishing takes, and the reader's
        self._responses.put(None)

    def _read(self) -> None:
        try:
            for request in self._requests:
                self._free.acquire()
                if self._abandoned:
                    return
                self._begin(request, self._responses.put)
        except grpc.RpcError:  # cancelled
            return
        self.finish()


class StreamMethods(service.GRPCInferenceServiceServicer):
    """The streaming method; ``start`` begins single requests."""

    def __init__(self, start: Start, outcomes: Outcomes, *, max_streams: int, max_requests: int) -> None:
        self._start = start
        self._outcomes = outcomes
        self._max_streams = max_streams
        self._max_requests = max_requests
        self._streams: set[Stream] = set()
        self._streams_lock = threading.Lock()
        self._streams_stop = False

    def ModelStreamInfer(
        self, request_iterator: Iterator[pb.ModelInferRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.ModelStreamInferResponse]:
        """Answer requests until the caller has no more; one that fails is answered with its error."""

        def begin(request: pb.ModelInferRequest, respond: Respond) -> None:
            def settled(outcome: Outcome) -> None:
                respond(_response(request, outcome))

            self._outcomes.begin(METHOD, self._start_request, request, context, settled)

        stream = Stream(request_iterator, begin, self._max_requests)
        if not self._open(stream):
            self._outcomes.of(METHOD, self._refuse, None, context).answer(context)
        try:
            if context.add_callback(stream.abandon):
                yield from stream.responses()
        finally:
            stream.abandon()
            with self._streams_lock:
                self._streams.discard(stream)
        if not context.is_active():
            # Ended by gRPC over bytes that are no request: it drops this and stops asking. Were there nothing
            # to drop, it would send the stream's status again, and wait for ever for that to succeed.
            yield pb.ModelStreamInferResponse()
        elif self._streams_stop:
            context.abort(grpc.StatusCode.UNAVAILABLE, "the server is stopping; open a stream to another one")

    def stop_streams(self) -> None:
        """Read no more requests; each stream ends when what it has read is answered."""
        with self._streams_lock:
            self._streams_stop = True
            for stream in self._streams:
                _finish(stream)

    def abandon_streams(self) -> None:
        """End every stream now, whatever of it is not answered."""
        with self._streams_lock:
            for stream in self._streams:
                stream.abandon()

    def _start_request(
        self,
        request: pb.ModelInferRequest,
        context: grpc.ServicerContext,
        done: Done,
    ) -> None:
        self._start(request, time.perf_counter(), deadline_of(context), lambda: not context.is_active(), done)

    def _open(self, stream: Stream) -> bool:
        with self._streams_lock:
            if len(self._streams) >= self._max_streams:
                return False
            self._streams.add(stream)
            if self._streams_stop:  # its call had come before the server stopped, and its turn only now
                _finish(stream)
        return True

    def _refuse(self, _request: None, _context: grpc.ServicerContext) -> None:
        raise LimitReached(
            f"{self._max_streams} streams are open, the most that this server takes (--max-streams); "
            f"close one, or send single requests"
        )


def _finish(stream: Stream) -> None:
    try:
        threading.Thread(target=stream.finish, name="stream-finish", daemon=True).start()
    except RuntimeError:  # the system has no thread for that: the stream ends as it is
        stream.abandon()


def _response(request: pb.ModelInferRequest, outcome: Outcome) -> pb.ModelStreamInferResponse:
    """A response, or an error with the id of its request."""
    response = pb.ModelStreamInferResponse()
    if outcome.response is None:
        response.error_message = outcome.text
        response.infer_response.id = request.id
        response.infer_response.model_name = request.model_name
    else:
        response.infer_response.CopyFrom(outcome.response)
    response.infer_response.parameters[FINAL_RESPONSE].bool_param = True
    return response
