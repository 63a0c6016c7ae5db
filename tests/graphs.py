"""Small QDQ models, written as the formulas they are."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern import _core
from edgekern.compiler.floats.table import FLOATS

Array = npt.NDArray[Any]
U8, S8 = np.uint8, np.int8


class Graph:
    """An ONNX graph under construction; every method returns the name of what it makes."""

    def __init__(self, seed: int = 0, opset: int = 21) -> None:
        self.rng, self.opset = np.random.default_rng(seed), opset
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def _name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}_{self._count}"

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def const(self, array: npt.ArrayLike, dtype: npt.DTypeLike = None) -> str:
        name = self._name("c")
        self.constants.append(numpy_helper.from_array(np.asarray(array, dtype), name))
        return name

    def op(self, kind: str, *inputs: str, outputs: int = 1, domain: str = "", **attributes: Any) -> Any:
        names = [self._name(kind.lower()) for _ in range(outputs)]
        node = helper.make_node(kind, inputs, names, name=f"node_{names[0]}", domain=domain, **attributes)
        self.nodes.append(node)
        return names[0] if outputs == 1 else names

    def qdq(self, x: str, scale: float = 0.05, zero_point: int | None = None, dtype: npt.DTypeLike = U8) -> str:
        """QuantizeLinear, then DequantizeLinear."""
        zero_point = (120 if dtype == U8 else 3) if zero_point is None else zero_point
        parameters = self.const(scale, np.float32), self.const(zero_point, dtype)
        return self.op("DequantizeLinear", self.op("QuantizeLinear", x, *parameters), *parameters)

    def weights(self, *shape: int, axis: int | None = 0, dtype: npt.DTypeLike = S8) -> str:
        """Random weights over the full range behind a DequantizeLinear; ``axis`` None is one scale for all."""
        info = np.iinfo(dtype)
        values = self.rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
        scales = self.rng.uniform(0.001, 0.01, () if axis is None else shape[axis]).astype(np.float32)
        zero_point = np.full(scales.shape, 128 if dtype == U8 else 0, dtype)
        parameters = {} if axis is None else {"axis": axis}
        return self.op("DequantizeLinear", *map(self.const, (values, scales, zero_point)), **parameters)

    def vector(self, size: int, spread: float = 1.0) -> str:
        """A float constant."""
        return self.const(self.rng.normal(0, spread, size), np.float32)

    def model(self, *outputs: str) -> onnx.ModelProto:
        values = [helper.make_empty_tensor_value_info(name) for name in outputs]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, values, self.constants)
        imports = [helper.make_opsetid("", self.opset), helper.make_opsetid("com.microsoft", 1)]
        made = helper.make_model(graph, opset_imports=imports, ir_version=10)
        return onnx.shape_inference.infer_shapes(made)


def two_products() -> onnx.ModelProto:
    """What a hidden layer gives is an output, too."""
    g = Graph()
    hidden = g.op("Relu", g.op("MatMul", g.input("x", (2, 6)), g.const(g.rng.normal(size=(6, 8)), np.float32)))
    return g.model(g.op("MatMul", hidden, g.const(g.rng.normal(size=(8, 3)), np.float32)), hidden)


def feeds_of(model: onnx.ModelProto, seed: int = 1, batch: int = 1) -> dict[str, Array]:
    """Random inputs, normal for floats and over the full range for integers."""
    rng, feeds = np.random.default_rng(seed), {}
    for value in model.graph.input:
        shape = [side.dim_value or batch for side in value.type.tensor_type.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        if dtype.kind == "b":
            feeds[value.name] = np.asarray(rng.random(shape) < 0.5)
        elif dtype.kind == "f":
            feeds[value.name] = rng.normal(0, 2, shape).astype(dtype)
        else:
            info = np.iinfo(dtype)
            feeds[value.name] = rng.integers(info.min, info.max, shape, dtype=dtype, endpoint=True)
    return feeds


def onnxruntime_session(model: onnx.ModelProto, *, optimized: bool = True) -> onnxruntime.InferenceSession:
    """onnxruntime as users run it, or node by node as the graph is written; never with saturating kernels."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.x64quantprecision", "1")
    if not optimized:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


@contextmanager
def without_float_kernels() -> Iterator[None]:
    """Every float operator on the host, as those without a kernel are."""
    kernels = dict(FLOATS)
    FLOATS.clear()
    try:
        yield
    finally:
        FLOATS.update(kernels)


def results_everywhere(program: ek.Program, feeds: dict[str, Array]) -> list[Array]:
    """One result on every instruction set and number of threads."""
    found = [
        ek.InferenceSession(program, isa=isa, num_threads=threads).run(None, feeds)
        for isa in _core.available_isas()
        for threads in (1, 2)
    ]
    for other in found[1:]:
        for one, same in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, same)
    return list(found[0])
