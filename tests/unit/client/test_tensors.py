"""Raw contents both ways."""

import sys

import ml_dtypes
import numpy as np
import pytest
from foldserve_client.errors import Internal, InvalidArgument, Unimplemented
from foldserve_client.tensors import Array, datatype_of, decode, dtype_of, encode
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

NUMBERS = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}


@pytest.mark.parametrize(("datatype", "name"), NUMBERS.items())
def test_numbers_come_back_bit_by_bit(datatype: str, name: str) -> None:
    @given(hnp.arrays(name, hnp.array_shapes(min_dims=0, min_side=0)))
    def comes_back(array: Array) -> None:
        raw = encode("x", array)
        decoded = decode("x", datatype, array.shape, raw)
        assert decoded.dtype == dtype_of(datatype) == array.dtype
        assert decoded.shape == array.shape
        assert decoded.tobytes() == array.tobytes()

    comes_back()


def test_a_dtype_names_its_datatype() -> None:
    for datatype, name in NUMBERS.items():
        assert datatype_of(np.dtype(name)) == datatype_of(np.dtype(name).newbyteorder(">")) == datatype
    assert datatype_of(np.dtype(ml_dtypes.bfloat16)) == "BF16"
    assert [datatype_of(np.dtype(name)) for name in ("O", "U3", "S2")] == ["BYTES"] * 3


@given(hnp.arrays(object, hnp.array_shapes(min_dims=0, min_side=0), elements=st.binary(max_size=300)))
def test_bytes_come_back(array: Array) -> None:
    decoded = decode("x", "BYTES", array.shape, encode("x", array))
    assert decoded.shape == array.shape
    assert decoded.tolist() == array.tolist()


def test_bytes_are_length_prefixed_little_endian_and_text_is_utf8() -> None:
    assert encode("x", np.array(["é", b"abc"], object)) == b"\x02\0\0\0\xc3\xa9\x03\0\0\0abc"


def test_bfloat16() -> None:
    array = np.array([1.5, -2.0, np.inf], ml_dtypes.bfloat16)
    assert encode("x", array) == b"\xc0\x3f\x00\xc0\x80\x7f"
    np.testing.assert_array_equal(decode("x", "BF16", [3], encode("x", array)), array)


def test_bfloat16_without_ml_dtypes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(Unimplemented, match=r"pip install 'foldserve-client\[bf16\]'"):
        dtype_of("BF16")


def test_decoded_numbers_are_views_of_the_message() -> None:
    raw = np.arange(3.0).tobytes()
    decoded = decode("x", "FP64", [3], raw)
    assert np.shares_memory(decoded, np.frombuffer(raw))
    assert not decoded.flags.writeable


def test_non_contiguous_arrays_are_sent_in_row_major_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    assert encode("x", array.T) == np.ascontiguousarray(array.T).tobytes()


def test_an_element_that_is_no_string_is_refused_naming_the_tensor() -> None:
    with pytest.raises(InvalidArgument, match="input 'words': a BYTES element must be bytes or str, got int"):
        encode("words", np.array([3], object))


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "text"),
    [
        ("FP32", [2], b"\0" * 7, "7 bytes are not a whole number of FP32"),
        ("FP32", [2], b"\0" * 4, r"1 FP32 elements do not fill shape \[2\]"),
        ("BYTES", [1], b"\x05\0\0\0ab", "end in the middle"),
        ("BYTES", [1], b"\x05\0", "end in the middle"),
        ("BYTES", [2], b"\x01\0\0\0a", r"1 BYTES elements do not fill shape \[2\]"),
    ],
)
def test_contents_that_do_not_fit_are_refused(datatype: str, shape: list[int], raw: bytes, text: str) -> None:
    with pytest.raises(Internal, match=text):
        decode("y", datatype, shape, raw)


def test_a_datatype_that_the_protocol_does_not_have_is_refused() -> None:
    with pytest.raises(Unimplemented, match="'FP8'"):
        dtype_of("FP8")
