"""Operator by operator against onnxruntime, on the 8-bit tensors that onnxruntime itself computed.

Each Conv, Gemm, Add and pooling is cut out of a QDQ model with its QuantizeLinear and DequantizeLinear, compiled alone,
and fed onnxruntime's bytes. At least 99.9 % of its results must be onnxruntime's, and the rest one step away.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import helper

import edgekern as ek
from edgekern import quickstart

from graphs import Array, feeds_of, onnxruntime_session
from qdq_models import MODELS

OPERATORS = {"Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"}
ACTIVATIONS = {"Relu", "Clip"}
EQUAL = 0.999
BATCHES = 4


@dataclass(frozen=True)
class Source:
    """A float model and something to calibrate it with."""

    model: onnx.ModelProto
    feeds: list[dict[str, Array]]


@dataclass(frozen=True)
class Piece:
    """One operator between 8-bit tensors, as a model of its own."""

    name: str
    op: str
    model: onnx.ModelProto
    inputs: list[str]
    output: str


def pieces_of(qdq: onnx.ModelProto) -> Iterator[Piece]:
    """Cut out every operator whose activations and result are quantized."""
    graph = qdq.graph
    maker = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in graph.node:
        if node.op_type not in OPERATORS:
            continue
        dequantizes = [maker.get(name) for name in node.input if name and name not in constants]
        if any(before is None or before.op_type != "DequantizeLinear" for before in dequantizes):
            continue
        codes = [before.input[0] for before in dequantizes if before.input[0] not in constants]
        chain = [node]
        while (after := readers.get(chain[-1].output[0], [])) and len(after) == 1 and after[0].op_type in ACTIVATIONS:
            chain.append(after[0])
        if len(after) != 1 or after[0].op_type != "QuantizeLinear":
            continue
        nodes = [*{before.output[0]: before for before in dequantizes}.values(), *chain, after[0]]
        used = {name for each in nodes for name in each.input}
        made = helper.make_graph(
            nodes,
            node.name,
            [helper.make_tensor_value_info(name, _type(constants, maker[name]), None) for name in dict.fromkeys(codes)],
            [helper.make_tensor_value_info(after[0].output[0], _type(constants, after[0]), None)],
            [tensor for name, tensor in constants.items() if name in used],
        )
        piece = helper.make_model(made, opset_imports=qdq.opset_import, ir_version=10)
        yield Piece(node.name or node.output[0], node.op_type, piece, list(dict.fromkeys(codes)), after[0].output[0])


def _type(constants: dict[str, onnx.TensorProto], quantize: onnx.NodeProto) -> int:
    return constants[quantize.input[2]].data_type


def every_code(qdq: onnx.ModelProto, feeds: dict[str, Array]) -> dict[str, Array]:
    """Every 8-bit activation as onnxruntime computes it, with its fused integer kernels."""
    names = [node.output[0] for node in qdq.graph.node if node.op_type == "QuantizeLinear"]
    tapped = onnx.ModelProto()
    tapped.CopyFrom(qdq)
    given = {value.name for value in qdq.graph.output}
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in given)
    return dict(zip(names, onnxruntime_session(tapped).run(names, feeds), strict=True))


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


def assert_parity(qdq: onnx.ModelProto, feeds: dict[str, Array], wanted: set[str]) -> None:
    codes = every_code(qdq, feeds)
    seen = set()
    for piece in pieces_of(qdq):
        for value in piece.model.graph.input:
            for side in codes[value.name].shape:
                value.type.tensor_type.shape.dim.add().dim_value = side
        program = ek.compile(piece.model, allow_host=False)
        [ours] = ek.InferenceSession(program).run(None, {name: codes[name] for name in piece.inputs})
        theirs = codes[piece.output]
        difference = np.abs(ours.astype(np.int32) - theirs.astype(np.int32))
        assert ours.dtype == theirs.dtype
        assert difference.max() <= 1, f"{piece.op} {piece.name}: differs by {difference.max()}"
        # A small tensor may hold a single tie.
        assert np.count_nonzero(difference) <= max(1, (1 - EQUAL) * difference.size), f"{piece.op} {piece.name}"
        seen.add(piece.op)
    assert wanted <= seen


def digits() -> Source:
    train, _ = quickstart.load_digits()
    return Source(onnx.load(quickstart.MODEL), [feeds for feeds, _ in zip(train.feeds(), range(64), strict=False)])


@pytest.mark.parametrize("signed", [False, True], ids=["u8", "s8"])
@pytest.mark.parametrize("quantizer", ["onnxruntime", "edgekern"])
def test_digits(quantizer, signed, tmp_path):
    source = digits()
    if quantizer == "onnxruntime":
        qdq = quantized_by_onnxruntime(source, tmp_path, signed=signed)
    else:
        qdq = quantized_by_edgekern(source, signed=signed)
    _, held_out = quickstart.load_digits()
    wanted = {"Conv", "Add", "MaxPool", "GlobalAveragePool"} | ({"Gemm"} if quantizer == "onnxruntime" else set())
    assert_parity(qdq, {"image": held_out.images[:1]}, wanted)


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


def real(name: str, folder) -> Source:
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


@pytest.mark.filterwarnings("ignore:.*got a wider weight scale:edgekern.errors.EdgekernWarning")
@pytest.mark.parametrize("quantizer", ["onnxruntime", "edgekern"])
@pytest.mark.parametrize("name", REAL)
def test_real_models(name, quantizer, test_data, tmp_path):
    source = real(name, test_data)
    if quantizer == "onnxruntime":
        qdq = quantized_by_onnxruntime(source, tmp_path, signed=False)
    else:
        qdq = quantized_by_edgekern(source, signed=False)
    assert_parity(qdq, source.feeds[0], {"Conv"})


@pytest.mark.parametrize(
    "name", ["conv", "conv_grouped", "conv_depthwise", "gemm", "matmul", "residual_s8", "average_pool"]
)
def test_generated_models(name):
    model = MODELS[name]()
    assert_parity(model, feeds_of(model), set())
