from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from foldserve.errors import ConfigurationError, InvalidRequest
from foldserve.serving.classification import MOST_CLASSES, classify, read_labels


def test_each_row_has_its_largest_values_with_index_and_label() -> None:
    values = np.array([[0.1, 0.7, 0.2], [-1.5, -2.25, -0.125]], np.float32)
    assert classify(values, 2, ["cat", "dog"], by_row=True).tolist() == [
        [b"0.700000:1:dog", b"0.200000:2"],
        [b"-0.125000:2", b"-1.500000:0:cat"],
    ]


def test_without_rows_all_values_are_the_classes_of_one_answer() -> None:
    values = np.array([[1, 5], [7, 3]], np.int64)
    assert classify(values, 3, [], by_row=False).tolist() == [b"7:2", b"5:1", b"3:3"]


def test_more_classes_than_there_are_means_all() -> None:
    assert classify(np.zeros((2, 3), np.float32), 10, [], by_row=True).shape == (2, 3)


def test_equal_values_keep_their_order_and_nan_comes_last() -> None:
    values = np.array([[np.nan, 2.0, 3.0, 2.0, -np.inf]], np.float64)
    texts = [text.decode() for text in classify(values, 5, [], by_row=True)[0].tolist()]
    assert [text.split(":")[1] for text in texts] == ["2", "1", "3", "0", "4"]


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.uint64, np.float16, ml_dtypes.bfloat16])
def test_every_kind_of_number_has_an_order(dtype: type) -> None:
    (text,) = classify(np.array([[1, 200, 3]]).astype(dtype), 1, [], by_row=True)[0].tolist()
    assert float(text.decode().split(":")[0]) == 200
    assert text.endswith(b":1")


@pytest.mark.parametrize("dtype", [np.bool_, np.object_])
def test_what_has_no_order_is_refused(dtype: type) -> None:
    with pytest.raises(InvalidRequest, match="have no order"):
        classify(np.zeros((1, 2), dtype), 1, [], by_row=True)


def test_an_answer_of_too_many_texts_is_refused() -> None:
    values = np.zeros((MOST_CLASSES + 1, 2), np.float32)
    assert len(classify(values[:-1], 1, [], by_row=True)) == MOST_CLASSES
    with pytest.raises(InvalidRequest, match="ask for fewer"):
        classify(values, 1, [], by_row=True)


def test_no_rows_have_no_classes() -> None:
    assert classify(np.empty((0, 4), np.float32), 2, [], by_row=True).shape == (0, 2)


def test_labels_are_the_lines_of_a_file_in_the_models_folder(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("zero\none\n", encoding="utf-8")
    assert read_labels(tmp_path, {"y": "labels.txt"}, ["y", "z"]) == {"y": ["zero", "one"]}


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ({"x": "labels.txt"}, "output 'x', which the model does not have"),
        ({"y": "missing.txt"}, "cannot be read"),
    ],
)
def test_labels_that_cannot_be_had_are_told(tmp_path: Path, files: dict[str, str], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        read_labels(tmp_path, files, ["y"])
