"""Trained models with samples to calibrate them, and the two quantizers."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

import edgekern as ek
from edgekern import quickstart

from graphs import Array

BATCHES = 4


@dataclass(frozen=True)
class Source:
    """A float model and something to calibrate it with."""

    model: onnx.ModelProto
    feeds: list[dict[str, Array]]


def digits() -> Source:
    train, _ = quickstart.load_digits()
    return Source(onnx.load(quickstart.MODEL), [feeds for feeds, _ in zip(train.feeds(), range(64), strict=False)])


def _cifar(folder):
    with np.load(folder / "cifar10" / "cifar10_train_10000.npz") as data:
        return data["x"][: BATCHES * 8].astype(np.float32)


def _standardized(images):
    mean, deviation = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    return (images / 255 - mean) / deviation


def _smooth_noise(model: onnx.ModelProto) -> Array:
    """Stands in for photographs: low frequencies, as many as the first layers pass on."""
    shape = [side.dim_value or 1 for side in model.graph.input[0].type.tensor_type.shape.dim]
    coarse = np.random.default_rng(3).normal(0, 1.5, (BATCHES, shape[1], shape[2] // 8, shape[3] // 8))
    return np.kron(coarse, np.ones((8, 8))).astype(np.float32)


REAL = {
    "resnet20": ("cnn/resnet20_cifar10.onnx", lambda folder: _standardized(_cifar(folder)).transpose(0, 3, 1, 2)),
    "resnet8": ("cnn/resnet8_cifar10.onnx", lambda folder: _cifar(folder).transpose(0, 3, 1, 2)),
    "mobilenetv2": ("cnn/mobilenetv2_1.0_224.onnx", None),
    "squeezenet": ("cnn/squeezenet1.1.onnx", None),
    "kws": ("audio/kws_ds_cnn.onnx", "kws01_500.npz"),
}


def real(name: str, folder: Path) -> Source:
    path, data = REAL[name]
    model = onnx.load(folder / path)
    if data is None:
        samples = _smooth_noise(model)
    elif callable(data):
        samples = data(folder)
    else:
        with np.load(folder / "audio" / data) as arrays:
            samples = (arrays["mfcc_int8"][:BATCHES].astype(np.float32) - arrays["zero_point"]) * arrays["scale"]
        samples = samples.reshape(BATCHES, 1, 49, 10)
    samples = np.ascontiguousarray(samples, np.float32)
    key = model.graph.input[0].name
    return Source(model, [{key: samples[i : i + 1]} for i in range(len(samples))])


def quantized_by_onnxruntime(source: Source, folder, *, signed: bool) -> onnx.ModelProto:
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self.feeds = iter(source.feeds)

        def get_next(self):
            return next(self.feeds, None)

    path, prepared, result = folder / "float.onnx", folder / "prepared.onnx", folder / "qdq.onnx"
    onnx.save(source.model, path)
    kind = quantization.QuantType.QInt8 if signed else quantization.QuantType.QUInt8
    logging.disable(logging.WARNING)
    try:
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            result,
            Reader(),
            activation_type=kind,
            weight_type=quantization.QuantType.QInt8,
            per_channel=not signed,
        )
    finally:
        logging.disable(logging.NOTSET)
    return onnx.load(result)


def quantized_by_edgekern(source: Source, *, signed: bool) -> onnx.ModelProto:
    calibrator = ek.Calibrator(source.model, progress=False)
    calibrator.collect_many(source.feeds)
    config = ek.QuantConfig(activations="s8" if signed else "u8")
    return ek.quantize(source.model, calibrator.compute_ranges(), config)
