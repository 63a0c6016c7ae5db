"""What the bodies of If, Loop and Scan read of the graphs around them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx

    from edgekern.graph.skeleton import Skeleton

_LONGEST_PREFIX = 64  # names of bodies in bodies would double with each level


def bodies(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def with_inner(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Some nodes, and those in their bodies."""
    for node in nodes:
        yield node
        for body in bodies(node):
            yield from with_inner(body.node)


def names_read(node: onnx.NodeProto) -> set[str]:
    """Names that a node, and the bodies in it, read from outside; what a body names itself hides what is outside."""
    names = {name for name in node.input if name}
    for body in bodies(node):
        own = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
        own |= {name for inside in body.node for name in inside.output}
        names |= {name for inside in body.node for name in names_read(inside)} - own  # protobuf ends at 100 levels
        names |= {value.name for value in body.output} - own
    return names


def leading_to(names: Iterable[str], nodes: Sequence[onnx.NodeProto]) -> list[onnx.NodeProto]:
    """Those of some nodes in order that results are computed by."""
    needed, chain = set(names), []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed |= names_read(node)
            chain.append(node)
    return chain[::-1]


def inline_ifs(model: Skeleton, choose: Callable[[onnx.NodeProto], onnx.GraphProto | None]) -> bool:
    """Put the body that ``choose`` gives in the place of each If, where it gives one; whether it did."""
    import onnx

    graph = model.proto.graph
    nodes = onnx.GraphProto()
    count = 0
    for node in graph.node:
        taken = choose(node) if node.op_type == "If" and node.domain == "" else None
        if taken is None:
            nodes.node.append(node)
            continue
        count += 1
        body = inlined_body(taken, free_prefix(graph, f"{numbered(node.output[0], count)} "))
        nodes.node.extend(body.node)
        graph.initializer.extend(body.initializer)
        for inner, outer in zip(body.output, node.output, strict=True):
            nodes.node.append(onnx.helper.make_node("Identity", [inner.name], [outer]))
    if count:
        del graph.node[:]
        graph.node.extend(nodes.node)
    return count > 0


def inline_constant_ifs(model: Skeleton) -> bool:
    """The same for every If whose condition is an initializer."""
    import onnx

    known = {tensor.name: tensor for tensor in model.proto.graph.initializer}

    def choose(node: onnx.NodeProto) -> onnx.GraphProto | None:
        if node.input[0] not in known:
            return None
        holds = onnx.numpy_helper.to_array(known[node.input[0]]).any()
        wanted = "then_branch" if holds else "else_branch"
        body: onnx.GraphProto = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        return body

    return inline_ifs(model, choose)


def numbered(name: str, number: int) -> str:
    """What the names of a body begin with, one of some whose names may be alike, or all begin alike."""
    return f"{name[:_LONGEST_PREFIX]} {number}"


def free_prefix(graph: onnx.GraphProto, prefix: str) -> str:
    """``prefix``, longer where a name of the graph, or of a body in it, begins so."""
    waiting, names = [graph], set[str]()
    while waiting:
        part = waiting.pop()
        names.update(value.name for value in (*part.input, *part.initializer))
        names.update(name for node in part.node for name in node.output)
        waiting += [body for node in part.node for body in bodies(node)]
    while any(name.startswith(prefix) for name in names):
        prefix += " "
    return prefix


def inlined_body(body: onnx.GraphProto, prefix: str) -> onnx.GraphProto:
    """A copy whose own names begin with ``prefix``: its nodes may stand in the graph around it."""
    own = [tensor.name for tensor in body.initializer]
    own += [name for node in body.node for name in node.output if name]
    copy = type(body)()
    copy.CopyFrom(body)
    _rename(copy, {name: prefix + name for name in own})
    return copy


def _rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Also in the bodies within: none may name anew what is named outside."""
    for named in (*graph.initializer, *graph.output):
        named.name = names.get(named.name, named.name)
    for node in graph.node:
        node.name = ""  # those of two nodes must differ, too
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
        for body in bodies(node):
            _rename(body, names)
