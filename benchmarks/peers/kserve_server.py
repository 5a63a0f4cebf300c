"""KServe's SDK: a custom predictor. It has no batching of its own: that is a sidecar of the cluster."""

import logging

from engine import NAME, Engine
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.logging import logger


class Predictor(Model):
    """Runs each request by itself."""

    def load(self) -> bool:
        self._engine = Engine()
        self.ready = True
        return True

    async def predict(self, payload: InferRequest, headers: dict[str, str] | None = None) -> InferResponse:
        scores = self._engine.run(payload.inputs[0].as_numpy())
        output = InferOutput(name=self._engine.output, datatype="FP32", shape=list(scores.shape))
        output.set_data_from_numpy(scores)
        return InferResponse(
            model_name=self.name,
            infer_outputs=[output],
            response_id=payload.id or "1",
            use_binary_outputs=True,
        )


if __name__ == "__main__":
    predictor = Predictor(NAME)
    predictor.load()
    server = ModelServer(enable_latency_logging=False)
    logger.setLevel(logging.WARNING)  # a line for each call otherwise
    server.start([predictor])
