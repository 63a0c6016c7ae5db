"""ONNX models of a host step, sound and crafted, and .ekm files that carry them with every hash right."""

import json
from collections.abc import Callable, Sequence

import numpy as np
import onnx
from google.protobuf.message import Message
from onnx import TensorProto, helper, numpy_helper

import edgekern as ek
from edgekern import _core
from edgekern.artifact import container

from graphs import without_float_kernels

SIZE = 4
MEMORY_MARKER = "*/_ORT_MEM_ADDR_/*"  # onnxruntime's own: the offset is an address of this process


def value(name: str, shape: Sequence[int] = (SIZE,), kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def array(name: str, content: object, kind: type = np.float32) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(content, kind), name)


def external(name: str = "w", location: str = "secret.bin", kind: int = TensorProto.FLOAT) -> onnx.TensorProto:
    tensor = TensorProto(name=name, data_type=kind, dims=[SIZE], data_location=TensorProto.EXTERNAL)
    width = 8 if kind == TensorProto.INT64 else 4
    for key, text in {"location": location, "offset": "0", "length": str(width * SIZE)}.items():
        tensor.external_data.add(key=key, value=text)
    return tensor


def model(
    nodes: Sequence[onnx.NodeProto],
    initializers: Sequence[onnx.TensorProto] = (),
    *,
    functions: Sequence[onnx.FunctionProto] = (),
    sparse: Sequence[onnx.SparseTensorProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model from x to y, of the names and shapes that :func:`program` has."""
    graph = helper.make_graph(nodes, "g", [value("x")], [value("y")], initializer=initializers)
    graph.sparse_initializer.extend(sparse)
    imports = [helper.make_opsetid("", 21), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def _add(*extra: onnx.NodeProto) -> list[onnx.NodeProto]:
    return [*extra, helper.make_node("Add", ["x", "w"], ["y"])]


def _if(branch: Callable[[], onnx.GraphProto]) -> onnx.NodeProto:
    return helper.make_node("If", ["c"], ["y"], then_branch=branch(), else_branch=branch())


def _branch(*nodes: onnx.NodeProto, initializers: Sequence[onnx.TensorProto] = ()) -> onnx.GraphProto:
    return helper.make_graph([*nodes], "branch", [], [value("y")], initializer=initializers)


def _in_branch(tensor: onnx.TensorProto) -> onnx.ModelProto:
    return model([_if(lambda: _branch(*_add(), initializers=[tensor]))], [array("c", True, bool)])


def _two_deep(tensor: onnx.TensorProto) -> onnx.ModelProto:
    inner = lambda: _branch(*_add(helper.make_node("Constant", [], ["w"], value=tensor)))  # noqa: E731
    return model([_if(lambda: _branch(_if(inner)))], [array("c", True, bool)])


def _in_function(tensor: onnx.TensorProto) -> onnx.ModelProto:
    nodes = _add(helper.make_node("Constant", [], ["w"], value=tensor))
    function = helper.make_function("f", "F", ["x"], ["y"], nodes, [helper.make_opsetid("", 21)])
    return model([helper.make_node("F", ["x"], ["y"], domain="f")], functions=[function], domains=["f"])


def _function_default(tensor: onnx.TensorProto) -> onnx.ModelProto:
    made = _in_function(array("w", np.ones(SIZE)))
    made.functions[0].attribute_proto.append(helper.make_attribute("a", tensor))
    return made


def _sparse(tensor: onnx.TensorProto) -> onnx.SparseTensorProto:
    if tensor.data_type == TensorProto.INT64:
        return onnx.SparseTensorProto(values=array("w", np.ones(SIZE)), indices=tensor, dims=[SIZE])
    return onnx.SparseTensorProto(values=tensor, indices=array("i", np.arange(SIZE), np.int64), dims=[SIZE])


def _training(tensor: onnx.TensorProto) -> onnx.ModelProto:
    made = model(_add(), [array("w", np.ones(SIZE))])
    made.training_info.add().algorithm.CopyFrom(_branch(initializers=[tensor]))
    return made


# Every place of a model that can hold a tensor.
PLACES: dict[str, Callable[[onnx.TensorProto], onnx.ModelProto]] = {
    "initializer": lambda t: model(_add(), [t]),
    "constant": lambda t: model(_add(helper.make_node("Constant", [], ["w"], value=t))),
    "list of tensors": lambda t: model([helper.make_node("Neg", ["x"], ["y"], list=[array("a", [1.0]), t])]),
    "branch": _in_branch,
    "branch of a branch": _two_deep,
    "list of graphs": lambda t: model(
        [helper.make_node("Neg", ["x"], ["y"], list=[_branch(*_add(), initializers=[t])] * 2)]
    ),
    "function": _in_function,
    "function's default": _function_default,
    "sparse initializer": lambda t: model(_add(), sparse=[_sparse(t)]),
    "sparse constant": lambda t: model(_add(helper.make_node("Constant", [], ["w"], sparse_value=_sparse(t)))),
    "list of sparse tensors": lambda t: model([helper.make_node("Neg", ["x"], ["y"], list=[_sparse(t)] * 2)]),
    "training": _training,
}


def _body(prefix: str, compute: Callable[[str, str], onnx.NodeProto]) -> onnx.GraphProto:
    """A Loop's body that goes on, and computes its state from its state."""
    turn, go, on, before, after = (prefix + name for name in ("turn", "go", "on", "before", "after"))
    return helper.make_graph(
        [helper.make_node("Identity", [go], [on]), compute(before, after)],
        "body",
        [value(turn, (), TensorProto.INT64), value(go, (), TensorProto.BOOL), value(before)],
        [value(on, (), TensorProto.BOOL), value(after)],
    )


def _same(before: str, after: str) -> onnx.NodeProto:
    return helper.make_node("Identity", [before], [after])


def counted() -> onnx.ModelProto:
    """y = x and as often x again as the input n says."""
    body = _body("", lambda before, after: helper.make_node("Add", [before, "x"], [after]))
    made = model([helper.make_node("Loop", ["n", "", "x"], ["y"], body=body)])
    made.graph.input.append(value("n", (), TensorProto.INT64))
    return made


def endless(kind: str) -> onnx.ModelProto:
    """A model that turns for ever and takes no memory for it."""
    constants = [array("yes", True, bool), array("ones", np.ones(SIZE)), array("many", 1 << 62, np.int64)]
    if kind == "scan":  # as many turns as a tensor without elements has rows
        body = helper.make_graph([_same("a", "b")], "body", [value("a"), value("row", (0,))], [value("b")])
        rows = helper.make_node("ConstantOfShape", ["shape"], ["rows"])
        scan = helper.make_node("Scan", ["x", "rows"], ["y"], body=body, num_scan_inputs=1)
        return model([rows, scan], [array("shape", [1 << 60, 0], np.int64)])
    body = _body("", _same)
    if kind == "nested":
        inner = body
        body = _body("outer_", lambda a, b: helper.make_node("Loop", ["many", "yes", a], [b], body=inner))
    operands = {"without a count": ["", "yes", "x"], "constant": ["many", "yes", "ones"]}
    loop = helper.make_node("Loop", operands.get(kind, ["many", "yes", "x"]), ["l"], body=body)
    return model([loop, helper.make_node("Add", ["l", "x"], ["y"])], constants)


def messages(message: Message) -> list[Message]:
    """A message and all below it, by protobuf's own reading."""
    found, waiting = [], [message]
    while waiting:
        found.append(waiting.pop())
        for field, content in found[-1].ListFields():
            if field.message_type is not None:
                waiting += [content] if isinstance(content, Message) else content
    return found


def program() -> ek.Program:
    """A program that is one host step, from x to y."""
    with without_float_kernels():
        return ek.compile(model([helper.make_node("Softmax", ["x"], ["y"])]))


def forged(sound: ek.Program, host: bytes, **changes: object) -> bytes:
    """The file as a forger writes it: another host model, another manifest entry, and every hash right."""
    index = _core.ProgramIndex.decode(sound.index.encode())
    manifest = json.loads(sound.manifest.to_json())
    manifest["host_steps"][0] |= {"blob_bytes": len(host), **changes}
    blobs = [(blob.name, sound.container.blob(blob.name)) for blob in sound.index.blobs]
    blobs = [(name, host if name == "host.0" else content) for name, content in blobs]
    text = json.dumps(manifest, separators=(",", ":"))
    return container.build(index, blobs, {"ekm.producer": index.producer, "ekm.manifest": text}).tobytes()
