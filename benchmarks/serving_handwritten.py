"""The server that people write by hand: ``serving_handwritten.py PORT MODEL``.

One grpcio servicer around one ONNX Runtime session: no batching, no checks, no metrics. It is here to be
beaten, and as what an application would otherwise have.
"""

import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import onnxruntime
from foldserve_proto import grpc_service_pb2 as pb
from foldserve_proto import grpc_service_pb2_grpc as service

THREADS = 16


class Servicer(service.GRPCInferenceServiceServicer):
    """Runs each request by itself, in the thread of its call."""

    def __init__(self, model: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]

    def ModelInfer(
        self, request: pb.ModelInferRequest, context: grpc.ServicerContext
    ) -> pb.ModelInferResponse:
        """Run the model on one request of FP32 tensors in raw contents."""
        feed = {
            tensor.name: np.frombuffer(raw, np.float32).reshape(tuple(tensor.shape))
            for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True)
        }
        arrays = self._session.run(self._outputs, feed)
        response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        for name, array in zip(self._outputs, arrays, strict=True):
            response.outputs.add(name=name, datatype="FP32", shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return response


def serve(address: str, model: str, threads: int) -> None:
    """Serve until killed."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.max_receive_message_length", -1)])
    service.add_GRPCInferenceServiceServicer_to_server(Servicer(model, threads), server)
    server.add_insecure_port(address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    port, model_file, engine_threads = sys.argv[1:]
    serve(f"127.0.0.1:{port}", model_file, int(engine_threads))
