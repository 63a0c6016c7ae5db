"""Operator by operator against onnxruntime, on the 8-bit tensors that onnxruntime itself computed.

Each Conv, Gemm, Add and pooling is cut out of a QDQ model with its QuantizeLinear and DequantizeLinear, compiled alone,
and fed onnxruntime's bytes. At least 99.9 % of its results must be onnxruntime's, and the rest one step away.
"""

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
from real_models import REAL, digits, quantized_by_edgekern, quantized_by_onnxruntime, real

OPERATORS = {"Conv", "Gemm", "MatMul", "Add", "MaxPool", "AveragePool", "GlobalAveragePool"}
ACTIVATIONS = {"Relu", "Clip"}
EQUAL = 0.999


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


@pytest.mark.parametrize("signed", [False, True], ids=["u8", "s8"])
def test_answers_agree_end_to_end(signed, tmp_path):
    """Every held-out digit, through both runtimes, on both quantizers' files."""
    source, (_, held_out) = digits(), quickstart.load_digits()
    theirs = quantized_by_onnxruntime(source, tmp_path, signed=signed)
    for qdq in (theirs, quantized_by_edgekern(source, signed=signed)):
        sessions = ek.InferenceSession(ek.compile(qdq, allow_host=False)), onnxruntime_session(qdq)
        answers = [[session.run(None, feeds)[0].argmax() for feeds in held_out.feeds(batch=1)] for session in sessions]
        assert np.mean(np.equal(*answers)) >= 0.99
