"""LitServe: batches, its quicker queue, images as the request's body: ``litserve_server.py PORT``."""

import sys
from typing import Annotated

import litserve
import numpy as np
from engine import MAX_BATCH, Engine
from fastapi import Body, Response

OCTETS = "application/octet-stream"


class Predictor(litserve.LitAPI):
    """Bytes in, bytes out."""

    def setup(self, device: str) -> None:
        self._engine = Engine()

    def decode_request(self, request: Annotated[bytes, Body(media_type=OCTETS)]) -> np.ndarray:
        return self._engine.images(request)[0]

    def predict(self, batch: np.ndarray) -> np.ndarray:
        return self._engine.run(batch)

    def encode_response(self, output: np.ndarray) -> Response:
        return Response(output.tobytes(), media_type=OCTETS)


if __name__ == "__main__":
    # Without any time-out for batches its worker looks for requests in a busy loop.
    server = litserve.LitServer(
        Predictor(max_batch_size=MAX_BATCH, batch_timeout=0.001),
        accelerator="cpu",
        devices=1,
        fast_queue=True,
    )
    server.run(port=int(sys.argv[1]), log_level="warning", generate_client_file=False)
