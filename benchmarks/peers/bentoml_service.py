"""BentoML: its typed API with adaptive batching takes arrays as JSON; bytes come by a mounted application."""

from __future__ import annotations

import bentoml
import numpy as np
from engine import MAX_BATCH, Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

OCTETS = "application/octet-stream"


async def scores(request: Request) -> Response:
    """Scores as bytes; without batching, which only the typed API has."""
    service = bentoml.get_current_service()
    images = service.engine.images(await request.body())
    return Response(service.engine.run(images).tobytes(), media_type=OCTETS)


@bentoml.asgi_app(Starlette(routes=[Route("/scores", scores, methods=["POST"])]), path="/bytes")
@bentoml.service(workers=1, metrics={"enabled": True}, traffic={"max_concurrency": 1024})
class Predictor:
    """One worker."""

    def __init__(self) -> None:
        self.engine = Engine()

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH, max_latency_ms=60_000)
    def predict(self, images: np.ndarray) -> np.ndarray:
        """Scores of a batch."""
        return self.engine.run(images.astype(np.float32, copy=False))
