"""Small graphs that contradict themselves, and odd ones that do not."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

F32, I64 = TensorProto.FLOAT, TensorProto.INT64
Build = Callable[[], onnx.ModelProto]

MALFORMED: dict[str, Build] = {}
HARMLESS: dict[str, Build] = {}


def _malformed(name: str) -> Callable[[Build], Build]:
    return lambda build: MALFORMED.setdefault(name, build)


def _harmless(name: str) -> Callable[[Build], Build]:
    return lambda build: HARMLESS.setdefault(name, build)


def model_of(nodes, inputs=None, outputs=("y",), constants=(), opset=21, functions=(), domains=()) -> onnx.ModelProto:
    values = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, (kind, shape) in (inputs or {"x": (F32, [2, 3])}).items()
    ]
    ends = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(nodes, "graph", values, ends, list(constants))
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=list(functions))


def node_of(kind, inputs, outputs=("y",), **attributes) -> onnx.NodeProto:
    return helper.make_node(kind, list(inputs), list(outputs), name=f"the {kind} of {outputs[0]}", **attributes)


def const(name, values, dtype=np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(values, dtype), name)


# --- graphs that contradict themselves


@_malformed("a node that reads itself")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x", "y"])])


@_malformed("a cycle of two nodes")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x", "b"], ["a"]), node_of("Relu", ["a"], ["b"]), node_of("Relu", ["b"])])


@_malformed("an input that nobody makes")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x", "nowhere"])])


@_malformed("an output that nobody makes")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"], ["a"])])


@_malformed("two nodes that make one name")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"]), node_of("Abs", ["x"])])


@_malformed("a node that makes an input")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"], ["x"]), node_of("Relu", ["x"])])


@_malformed("a node that makes an initializer")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"], ["w"]), node_of("Abs", ["w"])], constants=[const("w", [1.0])])


@_malformed("two initializers of one name")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x", "w"])], constants=[const("w", [1.0]), const("w", [2.0])])


@_malformed("two inputs of one name")
def _() -> onnx.ModelProto:
    model = model_of([node_of("Relu", ["x"])])
    model.graph.input.add().CopyFrom(model.graph.input[0])
    return model


@_malformed("two outputs of one name")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"])], outputs=("y", "y"))


@_malformed("an initializer without a name")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"])], constants=[const("", [1.0])])


@_malformed("a sum of float and integers")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x", "k"])], {"x": (F32, [2, 3]), "k": (I64, [2, 3])})


@_malformed("a table looked up by floats")
def _() -> onnx.ModelProto:
    return model_of([node_of("Gather", ["w", "x"])], constants=[const("w", np.ones((4, 3)))])


@_malformed("an output of another type than its node's")
def _() -> onnx.ModelProto:
    model = model_of([node_of("Relu", ["x"])])
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", I64, [2, 3]))
    return model


@_harmless("an inner shape that contradicts its node")
def _() -> onnx.ModelProto:
    model = model_of([node_of("Relu", ["x"], ["a"]), node_of("Relu", ["a"])])
    model.graph.value_info.append(helper.make_tensor_value_info("a", F32, [7, 7]))
    return model


@_malformed("sums of shapes that do not broadcast")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x", "w"])], constants=[const("w", np.ones(4))])


@_malformed("a product whose sides do not meet")
def _() -> onnx.ModelProto:
    return model_of([node_of("MatMul", ["x", "w"])], constants=[const("w", np.ones((4, 4)))])


@_malformed("a reshape into another count")
def _() -> onnx.ModelProto:
    return model_of([node_of("Reshape", ["x", "s"])], constants=[const("s", [5, 5], np.int64)])


@_malformed("a reshape into negative sides")
def _() -> onnx.ModelProto:
    return model_of([node_of("Reshape", ["x", "s"])], constants=[const("s", [-2, -3], np.int64)])


@_malformed("a reshape with two sides left open")
def _() -> onnx.ModelProto:
    return model_of([node_of("Reshape", ["x", "s"])], constants=[const("s", [-1, -1], np.int64)])


@_malformed("an input of a negative side")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"])], {"x": (F32, [2, -3])})


@_malformed("an input of 2^31 elements")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"])], {"x": (F32, [2**31])})


@_malformed("an input of 2^62 elements")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"])], {"x": (F32, [2**31, 2**31])})


@_malformed("an input whose elements overflow 64 bits")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"])], {"x": (F32, [2**40, 2**40, 4])})


@_malformed("an axis outside of its tensor")
def _() -> onnx.ModelProto:
    return model_of([node_of("Softmax", ["x"], axis=7)])


@_malformed("a permutation that names an axis twice")
def _() -> onnx.ModelProto:
    return model_of([node_of("Transpose", ["x"], perm=[0, 0])])


@_malformed("a window of no pixels")
def _() -> onnx.ModelProto:
    return model_of([node_of("MaxPool", ["x"], kernel_shape=[0, 0])], {"x": (F32, [1, 2, 8, 8])})


@_malformed("a window larger than its image")
def _() -> onnx.ModelProto:
    return model_of([node_of("MaxPool", ["x"], kernel_shape=[2, 3])], {"x": (F32, [1, 8, 1, 7])})


@_malformed("a window of negative strides")
def _() -> onnx.ModelProto:
    return model_of([node_of("MaxPool", ["x"], kernel_shape=[2, 2], strides=[-1, -1])], {"x": (F32, [1, 2, 8, 8])})


@_malformed("a window of stride 0")
def _() -> onnx.ModelProto:
    return model_of([node_of("AveragePool", ["x"], kernel_shape=[2, 2], strides=[0, 1])], {"x": (F32, [1, 2, 8, 8])})


@_malformed("a convolution of groups that do not divide")
def _() -> onnx.ModelProto:
    return model_of(
        [node_of("Conv", ["x", "w"], group=3)],
        {"x": (F32, [1, 4, 8, 8])},
        constants=[const("w", np.ones((6, 2, 3, 3)))],
    )


@_malformed("a convolution of group 0")
def _() -> onnx.ModelProto:
    return model_of(
        [node_of("Conv", ["x", "w"], group=0)],
        {"x": (F32, [1, 4, 8, 8])},
        constants=[const("w", np.ones((6, 4, 3, 3)))],
    )


@_malformed("a convolution dilated by 2^40")
def _() -> onnx.ModelProto:
    return model_of(
        [node_of("Conv", ["x", "w"], dilations=[2**40, 2**40])],
        {"x": (F32, [1, 4, 8, 8])},
        constants=[const("w", np.ones((6, 4, 3, 3)))],
    )


@_malformed("a convolution padded by a negative width")
def _() -> onnx.ModelProto:
    return model_of(
        [node_of("Conv", ["x", "w"], pads=[-9, -9, -9, -9])],
        {"x": (F32, [1, 4, 8, 8])},
        constants=[const("w", np.ones((6, 4, 3, 3)))],
    )


@_malformed("an attribute of the wrong type")
def _() -> onnx.ModelProto:
    return model_of([node_of("Softmax", ["x"], axis="last")])


@_malformed("an attribute that is missing")
def _() -> onnx.ModelProto:
    return model_of([node_of("Cast", ["x"])])


@_malformed("an attribute that does not exist")
def _() -> onnx.ModelProto:
    return model_of([node_of("Relu", ["x"], speed=2)])


@_malformed("an operator that does not exist")
def _() -> onnx.ModelProto:
    return model_of([node_of("Conjure", ["x"])])


@_malformed("too few operands")
def _() -> onnx.ModelProto:
    return model_of([node_of("Add", ["x"])])


@_malformed("a file of no nodes that promises an output")
def _() -> onnx.ModelProto:
    return model_of([])


@_malformed("zero points of two types in one pair")
def _() -> onnx.ModelProto:
    parameters = [const("s", np.float32(0.1)), const("z", 0, np.uint8), const("zz", 0, np.int8)]
    nodes = [node_of("QuantizeLinear", ["x", "s", "z"], ["q"]), node_of("DequantizeLinear", ["q", "s", "zz"])]
    return model_of(nodes, constants=parameters)


@_malformed("a huge initializer with no bytes")
def _() -> onnx.ModelProto:
    lie = TensorProto(name="w", data_type=F32, dims=[2**20, 2**20])
    return model_of([node_of("Add", ["x", "w"])], constants=[lie])


@_malformed("a huge initializer with a few bytes")
def _() -> onnx.ModelProto:
    lie = TensorProto(name="w", data_type=F32, dims=[2**20, 2**20], raw_data=b"\0" * 64)
    return model_of([node_of("Add", ["x", "w"])], constants=[lie])


@_malformed("an initializer of negative sides")
def _() -> onnx.ModelProto:
    lie = TensorProto(name="w", data_type=F32, dims=[-2, -3], raw_data=b"\0" * 24)
    return model_of([node_of("Add", ["x", "w"])], constants=[lie])


@_malformed("a huge Constant with no bytes")
def _() -> onnx.ModelProto:
    lie = TensorProto(name="w", data_type=F32, dims=[2**20, 2**20])
    return model_of([node_of("Constant", [], ["w"], value=lie), node_of("Add", ["x", "w"])])


@_malformed("a sparse initializer that would be dense in 4 TiB")
def _() -> onnx.ModelProto:
    values, places = const("w", [1.0]), const("w_at", [0], np.int64)
    model = model_of([node_of("Add", ["x", "w"])])
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**20, 2**20]))
    return model


@_malformed("a function that calls itself")
def _() -> onnx.ModelProto:
    body = [helper.make_node("Me", ["a"], ["b"], domain="own")]
    function = helper.make_function("own", "Me", ["a"], ["b"], body, [helper.make_opsetid("own", 1)])
    node = helper.make_node("Me", ["x"], ["y"], domain="own")
    return model_of([node], functions=[function], domains=["own"])


@_malformed("two functions that call each other")
def _() -> onnx.ModelProto:
    imports = [helper.make_opsetid("own", 1)]
    functions = [
        helper.make_function("own", me, ["a"], ["b"], [helper.make_node(it, ["a"], ["b"], domain="own")], imports)
        for me, it in (("Ping", "Pong"), ("Pong", "Ping"))
    ]
    node = helper.make_node("Ping", ["x"], ["y"], domain="own")
    return model_of([node], functions=functions, domains=["own"])


@_malformed("a branch that gives nothing")
def _() -> onnx.ModelProto:
    empty = helper.make_graph([], "empty", [], [])
    node = helper.make_node("If", ["c"], ["y"], then_branch=empty, else_branch=empty)
    return model_of([node], constants=[const("c", True, np.bool_)])


@_malformed("a body that reads what nobody makes")
def _() -> onnx.ModelProto:
    body = helper.make_graph(
        [node_of("Relu", ["ghost"], ["b"])], "body", [], [helper.make_tensor_value_info("b", F32, [2, 3])]
    )
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
    return model_of([node], {"x": (F32, [2, 3]), "c": (TensorProto.BOOL, [])})


@_harmless("branches in branches, 30 deep")
def _() -> onnx.ModelProto:
    body = helper.make_graph(
        [node_of("Relu", ["x"], ["b"])], "leaf", [], [helper.make_tensor_value_info("b", F32, [2, 3])]
    )
    other = helper.make_graph(
        [node_of("Abs", ["x"], ["b"])], "other", [], [helper.make_tensor_value_info("b", F32, [2, 3])]
    )
    for _level in range(30):
        node = helper.make_node("If", ["c"], ["b"], then_branch=body, else_branch=other)
        body = helper.make_graph([node], "body", [], [helper.make_tensor_value_info("b", F32, [2, 3])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=other)
    return model_of([node], constants=[const("c", True, np.bool_)])
