"""PyTriton: a Python function behind Triton: ``pytriton_server.py GRPC_PORT HTTP_PORT METRICS_PORT``."""

import sys

import numpy as np
from engine import MAX_BATCH, NAME, Engine
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

if __name__ == "__main__":
    grpc_port, http_port, metrics_port = map(int, sys.argv[1:])
    engine = Engine()

    @batch
    def infer(x: np.ndarray) -> dict[str, np.ndarray]:
        """Scores of a batch."""
        return {engine.output: engine.run(x)}

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=grpc_port,
        http_address="127.0.0.1",
        http_port=http_port,
        metrics_port=metrics_port,
    )
    with Triton(config=config) as server:
        server.bind(
            model_name=NAME,
            infer_func=infer,
            inputs=[Tensor(name="x", dtype=np.float32, shape=engine.shape)],
            outputs=[Tensor(name=engine.output, dtype=np.float32, shape=(-1,))],
            config=ModelConfig(
                max_batch_size=MAX_BATCH, batcher=DynamicBatcher(max_queue_delay_microseconds=0)
            ),
        )
        server.serve()
