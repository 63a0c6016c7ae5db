"""What quantize refuses: configurations, ranges and models that it cannot make a QDQ model of."""

from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
pytest.importorskip("onnx_ir", reason="needs edgekern[toolkit]")

from edgekern.calibration import Ranges, TensorRange, model_hash, observed_tensors
from edgekern.errors import ArgumentTypeError, ArgumentValueError, QuantizationError
from edgekern.graph.opset import newest_opset
from edgekern.quantization import QuantConfig, quantize

from float_models import build, f32, helper, ranges_of, samples, small_cnn


def test_unknown_config_values_are_refused() -> None:
    with pytest.raises(ArgumentValueError, match=r"QuantConfig: activations must be one of \['u8', 's8'\], got 'int8'"):
        QuantConfig(activations="int8")  # type: ignore[arg-type]
    with pytest.raises(ArgumentValueError, match=r"QuantConfig: rounding must be one of .*, got 'up'"):
        QuantConfig(rounding="up")  # type: ignore[arg-type]
    with pytest.raises(FrozenInstanceError):
        QuantConfig().activations = "s8"  # type: ignore[misc]
    assert QuantConfig() == QuantConfig(activations="u8", rounding="filter_sum")


def test_ranges_of_another_model_are_refused(rng: np.random.Generator) -> None:
    model = small_cnn()
    ranges = replace(ranges_of(model, samples(rng)), model_hash="0" * 64)
    with pytest.raises(QuantizationError, match=r"ranges are of another model \(hash 000000000000"):
        quantize(model, ranges)


def test_missing_range_is_named(rng: np.random.Generator) -> None:
    model = small_cnn()
    ranges = ranges_of(model, samples(rng))
    fewer = replace(ranges, tensors={name: r for name, r in ranges.items() if name != "g0"})
    with pytest.raises(QuantizationError, match="ranges lack tensor 'g0'"):
        quantize(model, fewer)


def test_wrong_types_are_refused(rng: np.random.Generator) -> None:
    model = small_cnn()
    ranges = ranges_of(model, samples(rng))
    with pytest.raises(ArgumentTypeError, match="quantize: ranges must be Ranges, got dict"):
        quantize(model, dict(ranges))  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match="quantize: config must be a QuantConfig, got str"):
        quantize(model, ranges, "s8")  # type: ignore[arg-type]
    with pytest.raises(ArgumentTypeError, match=r"quantize: model must be a path, bytes or onnx\.ModelProto, got int"):
        quantize(3, ranges)  # type: ignore[arg-type]


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x08"])
def test_a_file_that_is_not_onnx_is_refused(content: bytes, tmp_path: Path, rng: np.random.Generator) -> None:
    ranges = ranges_of(small_cnn(), samples(rng))
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ArgumentValueError, match=r"quantize: (model|'.*' is not an ONNX model; it is an empty file)"):
        quantize(tmp_path / "model.onnx", ranges)


@pytest.mark.parametrize("opset", [6, newest_opset() + 1])
def test_opset_that_is_too_old_or_unknown_is_refused(opset: int, rng: np.random.Generator) -> None:
    ranges = ranges_of(small_cnn(), samples(rng))
    model = small_cnn()
    model.opset_import[0].version = opset
    with pytest.raises(ArgumentValueError, match=rf"quantize: model has opset {opset}, which is outside 7\.\."):
        quantize(model, ranges)


def test_a_quantized_model_is_refused(rng: np.random.Generator) -> None:
    model, x = small_cnn(), samples(rng)
    qdq = quantize(model, ranges_of(model, x))
    for ranges in (ranges_of(qdq, x), ranges_of(model, x), None):  # whose model is another one is not what matters
        with pytest.raises(QuantizationError, match=r"model is quantized already, by .*; edgekern.compile takes it"):
            quantize(qdq, ranges)


def test_a_model_without_anything_to_quantize_is_refused(rng: np.random.Generator) -> None:
    model, x = build([helper.make_node("Exp", ["x"], ["y"])], {}, [2, 2]), f32(rng.normal(size=(2, 2)))
    with pytest.raises(QuantizationError, match="no operator to quantize"):
        quantize(model, ranges_of(model, x))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad: float) -> None:
    weights = {"w": np.array([[[[bad]], [[1.0]]]], np.float32)}
    model = build([helper.make_node("Conv", ["x", "w"], ["y"])], weights, ["n", 2, 4, 4])
    ranges = Ranges({name: TensorRange(-1.0, 1.0) for name in observed_tensors(model)}, model_hash(model), "max")
    with pytest.raises(QuantizationError, match="Conv 'y': 'w' holds NaN or Inf"):
        quantize(model, ranges)
