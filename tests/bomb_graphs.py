"""Small graphs that would grow beyond any memory, or never end."""

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper

from hostile_graphs import F32, I64, Build, const, model_of, node_of

BOMBS: dict[str, Build] = {}


def _bomb(name: str) -> Callable[[Build], Build]:
    return lambda build: BOMBS.setdefault(name, build)


def _grown(kind: str, *operands: onnx.TensorProto, nodes=(), shape=(1,), **attributes) -> onnx.ModelProto:
    """A node that blows up constants, and a sum that is read of what it gives."""
    names = [tensor.name for tensor in operands]
    chain = [*nodes, node_of(kind, names, ["big"], **attributes), node_of("ReduceSum", ["big"], ["s"])]
    return model_of([*chain, node_of("Add", ["x", "s"])], {"x": (F32, list(shape))}, constants=operands)


@_bomb("Expand of a constant to 4 TiB")
def _() -> onnx.ModelProto:
    return _grown("Expand", const("w", [1.0]), const("n", [2**20, 2**20], np.int64))


@_bomb("Expand of a constant to 16 GiB")
def _() -> onnx.ModelProto:
    return _grown("Expand", const("w", [1.0]), const("n", [2**32], np.int64))


@_bomb("Tile of a constant to 16 GiB")
def _() -> onnx.ModelProto:
    return _grown("Tile", const("w", [1.0]), const("n", [2**32], np.int64))


@_bomb("ConstantOfShape of 4 TiB")
def _() -> onnx.ModelProto:
    return _grown("ConstantOfShape", const("n", [2**40], np.int64))


@_bomb("ConstantOfShape of 2^63 elements")
def _() -> onnx.ModelProto:
    return _grown("ConstantOfShape", const("n", [2**31, 2**31, 2], np.int64))


@_bomb("ConstantOfShape of a negative side")
def _() -> onnx.ModelProto:
    return _grown("ConstantOfShape", const("n", [-5], np.int64))


@_bomb("Range to 2^40")
def _() -> onnx.ModelProto:
    return _grown("Range", const("a", np.float32(0)), const("b", np.float32(2**40)), const("d", np.float32(1)))


@_bomb("Range of step 0")
def _() -> onnx.ModelProto:
    return _grown("Range", const("a", np.float32(0)), const("b", np.float32(9)), const("d", np.float32(0)))


@_bomb("Range of integers to 2^62")
def _() -> onnx.ModelProto:
    limits = [const("a", 0, np.int64), const("b", 2**62, np.int64), const("d", 1, np.int64)]
    nodes = [node_of("Range", ["a", "b", "d"], ["r"]), node_of("Cast", ["r"], ["big"], to=F32)]
    end = [node_of("ReduceSum", ["big"], ["s"]), node_of("Add", ["x", "s"])]
    return model_of([*nodes, *end], {"x": (F32, [1])}, constants=limits)


@_bomb("Resize of a constant by 2^20 in both directions")
def _() -> onnx.ModelProto:
    nodes = [
        node_of("Resize", ["w", "", "k"], ["big"]),
        node_of("ReduceSum", ["big"], ["s"]),
        node_of("Add", ["x", "s"]),
    ]
    constants = [const("w", np.ones((1, 1, 2, 2))), const("k", [1, 1, 2.0**20, 2.0**20])]
    return model_of(nodes, {"x": (F32, [1])}, constants=constants)


@_bomb("Pad of a constant by 2^36")
def _() -> onnx.ModelProto:
    return _grown("Pad", const("w", [1.0]), const("n", [2**36, 0], np.int64))


@_bomb("forty constants that double")
def _() -> onnx.ModelProto:
    nodes = [node_of("Concat", [f"w{i}", f"w{i}"], [f"w{i + 1}"], axis=0) for i in range(40)]
    end = [node_of("ReduceSum", ["w40"], ["s"]), node_of("Add", ["x", "s"])]
    return model_of([*nodes, *end], {"x": (F32, [1])}, constants=[const("w0", [1.0])])


@_bomb("an outer product of constants of 16 GiB")
def _() -> onnx.ModelProto:
    nodes = [
        node_of("Expand", ["w", "n"], ["a"]),
        node_of("Expand", ["w", "m"], ["b"]),
        node_of("Mul", ["a", "b"], ["big"]),
        node_of("ReduceSum", ["big"], ["s"]),
        node_of("Add", ["x", "s"]),
    ]
    sizes = [const("w", [[1.0]]), const("n", [2**16, 1], np.int64), const("m", [1, 2**16], np.int64)]
    return model_of(nodes, {"x": (F32, [1])}, constants=sizes)


@_bomb("OneHot of depth 2^40")
def _() -> onnx.ModelProto:
    operands = [const("i", [0], np.int64), const("n", 2**40, np.int64), const("v", [0.0, 1.0])]
    return _grown("OneHot", *operands)


@_bomb("EyeLike of a square of 16 GiB")
def _() -> onnx.ModelProto:
    nodes = [
        node_of("ConstantOfShape", ["n"], ["a"]),
        node_of("EyeLike", ["a"], ["big"]),
        node_of("ReduceSum", ["big"], ["s"]),
        node_of("Add", ["x", "s"]),
    ]
    return model_of(nodes, {"x": (F32, [1])}, constants=[const("n", [2**16, 2**16], np.int64)])


@_bomb("a huge constant that is the output")
def _() -> onnx.ModelProto:
    return model_of([node_of("Expand", ["w", "n"])], constants=[const("w", [1.0]), const("n", [2**34], np.int64)])


@_bomb("an input that is expanded to 16 GiB")
def _() -> onnx.ModelProto:
    return model_of([node_of("Expand", ["x", "n"])], {"x": (F32, [1])}, constants=[const("n", [2**32], np.int64)])


@_bomb("an input that is tiled to 4 TiB")
def _() -> onnx.ModelProto:
    return model_of([node_of("Tile", ["x", "n"])], {"x": (F32, [1])}, constants=[const("n", [2**40], np.int64)])


@_bomb("a pooling whose window is 2^30 wide")
def _() -> onnx.ModelProto:
    node = node_of("MaxPool", ["x"], kernel_shape=[2**30, 2**30], pads=[2**30 - 1] * 4)
    return model_of([node], {"x": (F32, [1, 1, 8, 8])})


@_bomb("twenty doublings of an input in a chain of functions")
def _() -> onnx.ModelProto:
    """2^20 nodes when they are inlined."""
    imports = [helper.make_opsetid("own", 1), helper.make_opsetid("", 21)]
    functions = [helper.make_function("own", "F0", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], imports)]
    for level in range(1, 24):
        inner = [
            helper.make_node(f"F{level - 1}", ["a"], ["m"], domain="own"),
            helper.make_node(f"F{level - 1}", ["m"], ["b"], domain="own"),
        ]
        functions.append(helper.make_function("own", f"F{level}", ["a"], ["b"], inner, imports))
    node = helper.make_node("F23", ["x"], ["y"], domain="own")
    return model_of([node], functions=functions, domains=["own"])


@_bomb("a loop of 2^62 turns over constants")
def _() -> onnx.ModelProto:
    body = helper.make_graph(
        [node_of("Identity", ["go"], ["on"]), node_of("Add", ["a", "a"], ["b"])],
        "body",
        [
            helper.make_tensor_value_info("i", I64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("a", F32, [1]),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("b", F32, [1])],
    )
    node = helper.make_node("Loop", ["n", "t", "w"], ["s"], body=body, name="the Loop")
    constants = [const("n", 2**62, np.int64), const("t", True, np.bool_), const("w", [1.0])]
    return model_of([node, node_of("Add", ["x", "s"])], {"x": (F32, [1])}, constants=constants)


@_bomb("a loop that collects 2^40 rows")
def _() -> onnx.ModelProto:
    body = helper.make_graph(
        [node_of("Identity", ["go"], ["on"]), node_of("Identity", ["w"], ["row"])],
        "body",
        [helper.make_tensor_value_info("i", I64, []), helper.make_tensor_value_info("go", TensorProto.BOOL, [])],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), helper.make_tensor_value_info("row", F32, [1024])],
    )
    node = helper.make_node("Loop", ["n", "t"], ["rows"], body=body, name="the Loop")
    constants = [const("n", 2**40, np.int64), const("t", True, np.bool_), const("w", np.ones(1024))]
    end = [node_of("ReduceSum", ["rows"], ["s"]), node_of("Add", ["x", "s"])]
    return model_of([node, *end], {"x": (F32, [1])}, constants=constants)


@_bomb("a constant of strings that repeats to 16 GiB")
def _() -> onnx.ModelProto:
    words = helper.make_tensor("w", TensorProto.STRING, [1], [b"word" * 64])
    return model_of([node_of("Tile", ["w", "n"])], constants=[words, const("n", [2**26], np.int64)])


@_bomb("a product of two constants of 2^20 rows")
def _() -> onnx.ModelProto:
    nodes = [
        node_of("ConstantOfShape", ["n"], ["a"]),
        node_of("ConstantOfShape", ["m"], ["b"]),
        node_of("MatMul", ["a", "b"], ["big"]),
        node_of("ReduceSum", ["big"], ["s"]),
        node_of("Add", ["x", "s"]),
    ]
    sizes = [const("n", [2**20, 1], np.int64), const("m", [1, 2**20], np.int64)]
    return model_of(nodes, {"x": (F32, [1])}, constants=sizes)
