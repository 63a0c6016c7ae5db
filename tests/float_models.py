"""Small float ONNX models, their ranges, and a way to look into the QDQ models made of them."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

import edgekern as ek
from bench.peers import NO_SATURATION
from edgekern.calibration import Calibrator, Ranges

helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT
STATIC = ek.QuantConfig(recipe="w8a8")

Array = npt.NDArray[Any]


def build(
    nodes: list[Any], weights: dict[str, Array], shape: list[Any], outputs: tuple[str, ...] = ("y",), opset: int = 17
) -> Any:
    """A model from ``x`` to ``outputs``."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def f32(array: Array) -> npt.NDArray[np.float32]:
    return array.astype(np.float32)


def small_cnn(opset: int = 17) -> Any:
    """Conv+BN+Relu, max pooling, a depthwise Conv with Clip, a residual Add, a Concat, global pooling, Gemm."""
    rng = np.random.default_rng(5)
    norm = {"gamma": rng.uniform(0.5, 2, 8), "beta": rng.normal(size=8), "mean": rng.normal(size=8)}
    weights = {name: f32(array) for name, array in norm.items()} | {
        "var": f32(rng.uniform(0.2, 3, 8)),
        "w0": f32(rng.normal(size=(8, 3, 3, 3)) / 5),
        "w1": f32(rng.normal(size=(8, 1, 3, 3)) / 3),
        "b1": f32(rng.normal(size=8)),
        "w2": f32(rng.normal(size=(8, 8, 1, 1)) / 3),
        "w3": f32(rng.normal(size=(5, 16)) / 4),
        "b3": f32(rng.normal(size=5)),
    }
    clip_inputs = ["dw"]
    clip: dict[str, Any] = {"min": 0.0, "max": 6.0}
    if opset >= 11:
        weights |= {"zero": np.float32(0), "six": np.float32(6)}
        clip_inputs, clip = ["dw", "zero", "six"], {}
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "w0"], ["c0"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["c0", "gamma", "beta", "mean", "var"], ["n0"]),
        node("Relu", ["n0"], ["r0"]),
        node("MaxPool", ["r0"], ["p0"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["p0", "w1", "b1"], ["dw"], pads=[1, 1, 1, 1], group=8),
        node("Clip", clip_inputs, ["d0"], **clip),
        node("Conv", ["d0", "w2"], ["c2"]),
        node("Add", ["c2", "p0"], ["sum"]),
        node("Relu", ["sum"], ["s0"]),
        node("Concat", ["s0", "d0"], ["cat"], axis=1),
        node("GlobalAveragePool", ["cat"], ["g0"]),
        node("Flatten", ["g0"], ["f0"]),
        node("Gemm", ["f0", "w3", "b3"], ["y"], transB=1),
    ]
    return build(nodes, weights, ["n", 3, 12, 12], opset=opset)


def samples(rng: np.random.Generator, n: int = 16, shape: tuple[int, ...] = (3, 12, 12)) -> npt.NDArray[np.float32]:
    return f32(rng.normal(size=(n, *shape)))


def ranges_of(model: Any, x: Array, **options: Any) -> Ranges:
    return Calibrator(model, progress=False).collect({"x": x}).compute_ranges(**options)


def run(model: Any, x: Array) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.add_session_config_entry(*NO_SATURATION)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: x}))


def sqnr_db(expected: Array, found: Array) -> float:
    noise = np.subtract(expected, found, dtype=np.float64)
    return float(10 * np.log10((expected.astype(np.float64) ** 2).sum() / max((noise**2).sum(), 1e-300)))


def fused_operators(model: Any, folder: Path) -> Counter[str]:
    """What onnxruntime makes of a QDQ model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


class View:
    """A QDQ model, easy to ask."""

    def __init__(self, model: Any) -> None:
        onnx.checker.check_model(model, full_check=True)
        self.nodes = list(model.graph.node)
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.producer = {name: node for node in self.nodes for name in node.output}

    def of(self, op: str) -> list[Any]:
        return [node for node in self.nodes if node.op_type == op]

    def integers(self, name: str) -> tuple[Array | None, Array, Array | None, int]:
        """Behind a DequantizeLinear: the constant or None, its scale, its zero point, the axis."""
        node = self.producer[name]
        assert node.op_type == "DequantizeLinear", f"{name} comes from {node.op_type}"
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        zero = self.constants[node.input[2]] if len(node.input) > 2 else None
        return self.constants.get(node.input[0]), self.constants[node.input[1]], zero, axis

    def parameters(self, name: str) -> tuple[float, int]:
        """Scale and zero point that tensor ``name`` of the float model is quantized with."""
        [node] = [n for n in self.of("QuantizeLinear") if n.input[0] == name]
        return float(self.constants[node.input[1]]), int(self.constants[node.input[2]])


def all_the_way(model: onnx.ModelProto, feeds: dict[str, Array], **options: Any) -> tuple[list[Any], ek.Program]:
    """Calibrated, quantized, compiled, run; the results beside those of the model as it is written."""
    ranges = ek.Calibrator(model).collect(feeds).compute_ranges()
    program = ek.compile(ek.quantize(model, ranges, STATIC), **options)
    expected = _as_written(model).run(None, feeds)
    pairs = list(zip(ek.InferenceSession(program).run(None, feeds), expected, strict=True))
    for ours, theirs in pairs:
        assert (ours.shape, ours.dtype) == (np.shape(theirs), theirs.dtype)
    return pairs, program


def _as_written(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
