"""MLServer: a custom runtime, which runs the model in the event loop as MLServer's own runtimes do."""

from engine import Engine
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Runtime(MLModel):
    """Runs the batch that adaptive batching made of the requests."""

    async def load(self) -> bool:
        self._engine = Engine()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        images = NumpyCodec.decode_input(payload.inputs[0])
        scores = self._engine.run(images)
        output = NumpyCodec.encode_output(self._engine.output, scores)
        return InferenceResponse(model_name=self.name, outputs=[output])
