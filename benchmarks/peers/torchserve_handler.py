"""TorchServe: a custom handler; the server hands it the bodies of the requests of a batch."""

import numpy as np
from engine import Engine
from ts.context import Context


class Handler:
    """Bytes in, bytes out."""

    initialized = False

    def initialize(self, context: Context) -> None:
        """Open the model."""
        self._engine = Engine()
        self.initialized = True

    def handle(self, data: list[dict[str, bytearray]], context: Context) -> list[bytes]:
        """Scores of each request."""
        images = np.concatenate([self._engine.images(row["body"]) for row in data])
        return [scores.tobytes() for scores in self._engine.run(images)]
