from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from foldserve.errors import InvalidModel
from foldserve.serving import model_file
from foldserve.serving.model_file import read_model
from foldserve.serving.repository import ModelVersion
from foldserve.settings import ServerSettings
from running import EXAMPLE_MODELS


def _model() -> ir.Model:
    return ir.load(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    source = ModelVersion("digits", 1, EXAMPLE_MODELS / "digits" / "1")
    settings = ServerSettings(repository=(EXAMPLE_MODELS,), cache_dir=tmp_path)
    assert model_file.onnx_file(source, tmp_path, settings) == source.folder / "model.onnx"


def test_a_program_is_imported_even_where_nothing_can_be_cached(tmp_path: Path) -> None:
    source = ModelVersion("digits_pt2", 1, EXAMPLE_MODELS / "digits_pt2" / "1")
    not_a_folder = tmp_path / "file"
    not_a_folder.write_text("")
    settings = ServerSettings(repository=(EXAMPLE_MODELS,), cache_dir=not_a_folder)
    imported = model_file.onnx_file(source, tmp_path, settings)
    assert imported.parent == tmp_path
    assert read_model(imported).graph.inputs[0].name == "images"


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"\x08\x07garbage")
    with pytest.raises(InvalidModel, match=r"model\.onnx is not a readable ONNX model"):
        read_model(file)


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"")
    with pytest.raises(InvalidModel, match=r"model\.onnx holds a graph without outputs, or none at all"):
        read_model(file)


def test_external_data_beside_the_model_is_read(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    ir.save(_model(), file, external_data="weights.bin", size_threshold_bytes=0)
    for name, value in read_model(file).graph.initializers.items():
        expected = _model().graph.initializers[name].const_value
        assert value.const_value is not None
        assert expected is not None
        np.testing.assert_array_equal(value.const_value.numpy(), expected.numpy())


def test_external_data_elsewhere_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "digits" / "1"
    folder.mkdir(parents=True)
    ir.save(_model(), folder / "model.onnx", external_data="weights.bin", size_threshold_bytes=0)
    (folder / "weights.bin").rename(tmp_path / "weights.bin")
    (folder / "weights.bin").symlink_to(tmp_path / "weights.bin")
    with pytest.raises(InvalidModel, match="outside the model's folder"):
        read_model(folder / "model.onnx")


def test_no_tensor_keeps_the_message_that_was_read() -> None:
    model = read_model(EXAMPLE_MODELS / "digits" / "1" / "model.onnx")
    tensors = [value.const_value for value in model.graph.initializers.values()]
    tensors += [
        attribute.as_tensor()
        for node in model.graph
        for attribute in node.attributes.values()
        if attribute.type is ir.AttributeType.TENSOR
    ]
    assert tensors
    assert not any(isinstance(tensor, ir.TensorProtoTensor) for tensor in tensors)
