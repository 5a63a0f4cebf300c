"""A caller that speaks HTTP/2 by hand, and so may do what no gRPC client does."""

import select
import socket
import struct
from collections.abc import Sequence

import h2.config
import h2.connection
import h2.events

METHOD = "/inference.GRPCInferenceService/"


class RawConnection:
    """One connection to a gRPC server."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self.http = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self.http.initiate_connection()
        self.send()

    def begin(self, method: str, headers: Sequence[tuple[str, str]] = ()) -> int:
        """Open a stream for a method, without any message; its number."""
        stream = self.http.get_next_available_stream_id()
        path = method if method.startswith("/") else METHOD + method
        self.http.send_headers(
            stream,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                *headers,
            ],
        )
        return stream

    def send(self) -> None:
        """Send what is to be sent."""
        self.socket.sendall(self.http.data_to_send())

    def receive(self) -> list[h2.events.Event]:
        """What came; nothing, if the server closed the connection."""
        try:
            data = self.socket.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            return []
        events = self.http.receive_data(data)
        self.send()
        return events

    def receive_what_is_there(self) -> None:
        """Read without waiting."""
        while select.select([self.socket], [], [], 0)[0] and self.receive():
            pass

    def status(self, stream: int) -> str | None:
        """How a call ends: its gRPC status, or what ended its stream or its connection without one."""
        while events := self.receive():
            for event in events:
                if isinstance(event, h2.events.StreamReset) and event.stream_id == stream:
                    return f"reset {event.error_code}"
                status = grpc_status(event)
                if status is not None and getattr(event, "stream_id", None) == stream:
                    return status
        return "closed"

    def close(self) -> None:
        self.socket.close()


def grpc_status(event: h2.events.Event) -> str | None:
    """The gRPC status that a stream's headers or trailers carry."""
    if not isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
        return None
    headers = {str(name): str(value) for name, value in event.headers}
    return headers.get("grpc-status")


def message(content: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC frames it."""
    return struct.pack(">BI", compressed, len(content)) + content
