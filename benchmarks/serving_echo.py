"""The transport's floor: a bare grpcio server that parses each request and answers with a message at hand.

``serving_echo.py sync|asyncio PORT RESPONSE``: RESPONSE is the file of a serialised ModelInferResponse, the
very one with which the other servers answer.
"""

import asyncio
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

OPTIONS = [("grpc.max_receive_message_length", -1)]
THREADS = 64


class Echo(service.GRPCInferenceServiceServicer):
    """Answers every inference with the same message."""

    def __init__(self, response: pb.ModelInferResponse) -> None:
        self._response = response

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        """The answer, whatever was asked."""
        return self._response


class AsyncioEcho(Echo):
    """The same as coroutines."""

    async def ModelInfer(  # type: ignore[override]  # the generated servicer is the synchronous one
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        """The answer, whatever was asked."""
        return self._response


def serve_sync(address: str, response: pb.ModelInferResponse) -> None:
    """Serve until killed."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=OPTIONS)
    service.add_GRPCInferenceServiceServicer_to_server(Echo(response), server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


async def serve_asyncio(address: str, response: pb.ModelInferResponse) -> None:
    """Serve until killed."""
    server = grpc.aio.server(options=OPTIONS)
    service.add_GRPCInferenceServiceServicer_to_server(AsyncioEcho(response), server)
    server.add_insecure_port(address)
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    kind, port, file = sys.argv[1:]
    message = pb.ModelInferResponse.FromString(Path(file).read_bytes())
    if kind == "sync":
        serve_sync(f"127.0.0.1:{port}", message)
    else:
        asyncio.run(serve_asyncio(f"127.0.0.1:{port}", message))
