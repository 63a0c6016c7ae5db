"""Float models as onnxruntime's own quantizers write them: what it is fair to compare with."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import onnx.version_converter

_PER_CHANNEL = 13  # the opset from which DequantizeLinear takes a scale a channel


def dynamic(path: Path, folder: Path) -> bytes:
    """``quantize_dynamic``: int8 weights per channel, one scale a tensor of activations, as it comes."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic(folded(path, folder), folder / "dynamic.onnx", weight_type=QuantType.QInt8, per_channel=True)
    return (folder / "dynamic.onnx").read_bytes()


def static(
    path: Path, folder: Path, *, feeds: Sequence[Mapping[str, npt.NDArray[Any]]], method: str = "MinMax"
) -> bytes:
    """``quantize_static``: Q and DQ, int8 weights per channel, uint8 activations by the range of ``feeds``.

    ``method`` is the name of a ``CalibrationMethod``.
    """
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
    kinds |= {"quant_format": QuantFormat.QDQ, "calibrate_method": CalibrationMethod[method]}
    target = folder / "static.onnx"
    quantize_static(folded(path, folder), target, Reader(), per_channel=True, **kinds)
    return target.read_bytes()


def folded(path: Path, folder: Path) -> Path:
    """The model as its basic optimizations leave it, in an opset that has scales per channel."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath, options.log_severity_level = str(folder / "folded.onnx"), 4
    ort.InferenceSession(onnx.load(path).SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(folder / "folded.onnx")
    if folded.opset_import[0].version < _PER_CHANNEL:
        with contextlib.suppress(Exception):  # what the converter raises: the quantizer gets the old model
            onnx.save(onnx.version_converter.convert_version(folded, _PER_CHANNEL), folder / "folded.onnx")
    return folder / "folded.onnx"
