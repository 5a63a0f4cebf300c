"""Ray Serve: one replica behind its gRPC proxy, in batches: ``ray_server.py GRPC_PORT HTTP_PORT``."""

import sys
import threading

import numpy as np
import ray
from engine import MAX_BATCH, Engine
from foldserve_proto import grpc_service_pb2 as pb
from ray import serve
from ray.serve.config import HTTPOptions, gRPCOptions
from ray.serve.schema import LoggingConfig

SERVICER = "foldserve_proto.grpc_service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server"


@serve.deployment(num_replicas=1, max_ongoing_requests=2 * MAX_BATCH, ray_actor_options={"num_cpus": 0.5})
class Predictor:
    """Answers KServe V2 in raw contents; runs together what waits."""

    def __init__(self) -> None:
        self._engine = Engine()

    async def ModelInfer(self, request: pb.ModelInferRequest) -> pb.ModelInferResponse:
        scores = await self._scores(self._engine.images(request.raw_input_contents[0]))
        tensor = pb.ModelInferResponse.InferOutputTensor(
            name=self._engine.output, datatype="FP32", shape=scores.shape
        )
        return pb.ModelInferResponse(
            model_name=request.model_name, outputs=[tensor], raw_output_contents=[scores.tobytes()]
        )

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.0)
    async def _scores(self, images: list[np.ndarray]) -> list[np.ndarray]:
        scores = self._engine.run(np.concatenate(images))
        return list(scores[:, np.newaxis])


if __name__ == "__main__":
    grpc_port, http_port = map(int, sys.argv[1:])
    ray.init(include_dashboard=False, num_cpus=2, object_store_memory=100 << 20)
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=http_port),
        grpc_options=gRPCOptions(port=grpc_port, grpc_servicer_functions=[SERVICER]),
        logging_config=LoggingConfig(enable_access_log=False),
    )
    serve.run(Predictor.options(logging_config=LoggingConfig(enable_access_log=False)).bind())
    threading.Event().wait()
