"""Requests at a fixed rate, whether or not the earlier ones were answered, and what became of each.

An open loop: latency counts from the moment when a request was due, so that a server that keeps everybody
waiting cannot hide the requests that were not sent meanwhile. h2load sends its ``--rps`` in bursts every
10 ms, and a grpcio client in Python cannot keep up with the servers measured here; so this speaks as much
HTTP/2 as a prebuilt gRPC request needs (RFC 9113; header compression, RFC 7541, without its dynamic table).
"""

import gc
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from serving_harness import BenchmarkFailed
from serving_load import FRAME, METHOD

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
END_STREAM, ACK, END_HEADERS = 1, 1, 4
HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE = 1, 4
DEFAULT_WINDOW = 65_535
LARGEST_WINDOW = 2**31 - 1
LARGEST_FRAME = 16_384
STATUS = b"grpc-status"
CODES = {code.value[0]: code.name for code in grpc.StatusCode}
SETTLE_S = 0.2
"""From the first connection to the first request."""

DRAIN_S = 10.0
"""How long after the last request answers are waited for."""

WAKE_UP_S = 1e-4
"""So long before a request is due the generator stops sleeping."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    code: str
    due_s: float
    """When it was due, from the start of the run."""

    latency_s: float
    """From when it was due to its last byte."""

    late_s: float
    """How late the generator itself was."""


@dataclass(slots=True)
class _Stream:
    due: float
    asked: float
    sent: int = 0
    """Bytes of the message."""

    window: int = 0
    """Bytes that the server takes yet, beside what it takes on the connection as a whole."""


@dataclass
class _Connection:
    """One HTTP/2 connection that sends the same request again and again."""

    port: int
    message: bytes
    start: float
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.socket = socket.create_connection(("127.0.0.1", self.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._headers = _request_headers(f"127.0.0.1:{self.port}")
        self._streams: dict[int, _Stream] = {}
        self._unsent: deque[int] = deque()
        self._next = 1
        self._window = DEFAULT_WINDOW
        self._stream_window = DEFAULT_WINDOW
        self._received = b""
        self._unwritten = bytearray()
        # No dynamic table: the server then writes every status in full. And no limit on what it may send.
        settings = struct.pack(">HIHI", HEADER_TABLE_SIZE, 0, INITIAL_WINDOW_SIZE, LARGEST_WINDOW)
        room = struct.pack(">I", LARGEST_WINDOW - DEFAULT_WINDOW)
        self.write(PREFACE + _frame(SETTINGS, 0, 0, settings) + _frame(WINDOW_UPDATE, 0, 0, room))

    @property
    def open_streams(self) -> int:
        """Requests without an answer."""
        return len(self._streams)

    @property
    def writing(self) -> bool:
        """Whether the socket has not taken everything yet."""
        return bool(self._unwritten)

    def ask(self, due: float) -> None:
        """Send the request, or what the server's windows let through; the rest follows when they open."""
        stream, self._next = self._next, self._next + 2
        self._streams[stream] = _Stream(due, time.perf_counter(), window=self._stream_window)
        self.write(_frame(HEADERS, END_HEADERS, stream, self._headers))
        self._unsent.append(stream)
        self._send()

    def write(self, content: bytes = b"") -> None:
        """Give ``content``, after what is left from before, to the socket; it may take only a part."""
        self._unwritten += content
        with suppress(BlockingIOError):
            while self._unwritten:
                del self._unwritten[: self.socket.send(self._unwritten, socket.MSG_DONTWAIT)]

    def receive(self) -> None:
        """Take what the server sent."""
        content = self.socket.recv(1 << 18)
        if not content:
            raise BenchmarkFailed("the server closed the connection")
        now = time.perf_counter()
        received = self._received + content
        at = 0
        while len(received) >= at + 9:
            end = at + 9 + int.from_bytes(received[at : at + 3])
            if len(received) < end:
                break
            kind, flags, stream = struct.unpack_from(">BBI", received, at + 3)
            self._take(kind, flags, stream, received[at + 9 : end], now)
            at = end
        self._received = received[at:]
        self._send()

    def _take(self, kind: int, flags: int, stream: int, payload: bytes, now: float) -> None:
        if kind == HEADERS and flags & END_STREAM:
            self._close(stream, _status(payload), now)
        elif kind == RST_STREAM:
            self._close(stream, "RESET", now)
        elif kind == WINDOW_UPDATE:
            self._widen(stream, int.from_bytes(payload))
        elif kind == SETTINGS and not flags & ACK:
            for setting, value in struct.iter_unpack(">HI", payload):
                if setting == INITIAL_WINDOW_SIZE:
                    for one in self._streams.values():
                        one.window += value - self._stream_window
                    self._stream_window = value
            self.write(_frame(SETTINGS, ACK, 0, b""))
        elif kind == PING and not flags & ACK:
            self.write(_frame(PING, ACK, 0, payload))
        elif kind == GOAWAY:
            raise BenchmarkFailed(f"the server ended the connection: {payload[8:].decode(errors='replace')}")

    def _close(self, stream: int, code: str, now: float) -> None:
        if (one := self._streams.pop(stream, None)) is not None:
            self.outcomes.append(Outcome(code, one.due - self.start, now - one.due, one.asked - one.due))

    def _widen(self, stream: int, by: int) -> None:
        if not stream:
            self._window += by
        elif stream in self._streams:
            self._streams[stream].window += by

    def _send(self) -> None:
        for _ in range(len(self._unsent)):
            if not self._window:
                return
            stream = self._unsent.popleft()
            one = self._streams.get(stream)
            if one is not None and not self._send_all(stream, one):
                self._unsent.append(stream)

    def _send_all(self, stream: int, one: _Stream) -> bool:
        while one.sent < len(self.message):
            size = min(len(self.message) - one.sent, self._window, one.window, LARGEST_FRAME)
            if size <= 0:
                return False
            last = END_STREAM if one.sent + size == len(self.message) else 0
            part = self.message[one.sent : one.sent + size]
            self.write(_frame(DATA, last, stream, part))
            one.sent += size
            one.window -= size
            self._window -= size
        return True


def open_loop(
    port: int,
    request: pb.ModelInferRequest,
    *,
    rate: float,
    seconds: float,
    connections: int,
    cores: Collection[int],
) -> list[Outcome]:
    """Send ``rate`` requests per second, evenly spaced, over several connections; what became of each.

    Runs in this thread, on ``cores``. A request that is not answered in time counts as ``UNANSWERED``.
    Raises :class:`BenchmarkFailed` where the server hangs up.
    """
    content = request.SerializeToString()
    message = FRAME.pack(0, len(content)) + content
    with ExitStack() as stack:
        stack.enter_context(_undisturbed(cores))
        start = time.perf_counter() + SETTLE_S
        lines = [_Connection(port, message, start) for _ in range(connections)]
        for line in lines:
            stack.enter_context(line.socket)
        by_file = {line.socket.fileno(): line for line in lines}
        count = round(rate * seconds)
        sent = 0
        while sent < count or any(line.open_streams for line in lines):
            now = time.perf_counter()
            due = start + sent / rate
            if sent < count and due <= now:
                lines[sent % connections].ask(due)
                sent += 1
            if now > start + seconds + DRAIN_S:
                break
            idle_s = due - now - WAKE_UP_S if sent < count else WAKE_UP_S
            full = [file for file, line in by_file.items() if line.writing]
            readable, writable, _ = select.select(by_file, full, (), max(0.0, idle_s))
            for file in writable:
                by_file[file].write()
            for file in readable:
                by_file[file].receive()
        outcomes = [outcome for line in lines for outcome in line.outcomes]
    lost = Outcome("UNANSWERED", float("inf"), float("inf"), float("inf"))
    return outcomes + [lost] * (count - len(outcomes))


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">BHBBI", len(payload) >> 16, len(payload) & 0xFFFF, kind, flags, stream) + payload


def _request_headers(authority: str) -> bytes:
    """POST and http from the static table, the rest as literals that no table keeps."""

    def text(value: str) -> bytes:
        return bytes([len(value)]) + value.encode()

    path, host = b"\x04" + text(METHOD), b"\x01" + text(authority)
    content_type = b"\x0f\x10" + text("application/grpc")
    return b"\x83\x86" + path + host + content_type + b"\x00" + text("te") + text("trailers")


def _status(trailers: bytes) -> str:
    """gRPC's status code; its name stands in the block of trailers, then a length, then its digits."""
    at = trailers.find(STATUS) + len(STATUS)
    if at < len(STATUS):
        raise BenchmarkFailed(f"trailers without {STATUS.decode()}: {trailers!r}")
    return CODES[int(trailers[at + 1 : at + 1 + trailers[at]])]


@contextmanager
def _undisturbed(cores: Collection[int]) -> Iterator[None]:
    """This thread on ``cores``, and no garbage collection."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        os.sched_setaffinity(0, before)
