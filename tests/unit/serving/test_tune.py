"""What a model is measured with: batches of its own probe, made before the clock starts."""

import numpy as np
from foldserve.serving.tune import batches_of


def test_batches_repeat_the_rows_of_the_probe() -> None:
    batch_of = batches_of({"x": np.array([[1.0], [2.0]]), "y": np.array([[3], [4]])})
    assert batch_of(3)["x"].tolist() == [[1.0], [2.0], [1.0]]
    assert batch_of(1)["y"].tolist() == [[3]]


def test_a_batch_that_is_measured_again_is_not_made_again() -> None:
    batch_of = batches_of({"x": np.zeros((1, 3))})
    single, several = batch_of(1), batch_of(8)
    assert batch_of(1) is single
    assert batch_of(8) is several
