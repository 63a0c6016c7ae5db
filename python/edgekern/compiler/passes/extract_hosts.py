"""Cut the runs of host nodes out of the model as ONNX models of their own, and prove that onnxruntime takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper

from edgekern.artifact.host_model import check_host_model
from edgekern.compiler.operators.products import macs
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.steps import HostNode, Tensor
from edgekern.errors import ArtifactError, CompileError
from edgekern.graph.evaluate import IR_VERSION, new_session
from edgekern.graph.skeleton import Encoded, Skeleton
from edgekern.graph.values import label, qualified

_MAX_MESSAGE_BYTES = 2**31 - 1  # protobuf's limit


@dataclass(frozen=True)
class HostRun:
    """A sub-model, and the tensors it reads and writes by their names in it."""

    nodes: tuple[HostNode, ...]
    model: Encoded
    inputs: tuple[tuple[str, Tensor], ...]
    outputs: tuple[tuple[str, Tensor], ...]
    macs: int

    @property
    def elements(self) -> int:
        return sum(tensor.size for _, tensor in (*self.inputs, *self.outputs))


def connect_hosts(stages: Sequence[Stage], border: Callable[[ir.Value], Tensor]) -> None:
    """Give an arena tensor to every value that goes from one host step to another."""
    made = {value: host for stage in stages for host in stage.hosts for value in host.node.outputs}
    for stage in stages:
        inside = set(stage.hosts)
        for host in stage.hosts:
            for value in host.reads:
                if value in made and made[value] not in inside:
                    host.inputs[value] = border(value)


def extract_host(model: Skeleton, hosts: Sequence[HostNode]) -> HostRun:
    """The sub-model of one run.

    Raises
    ------
    CompileError
        When onnxruntime cannot run it: nobody can. When its sub-model has what no program may carry.
    """
    inputs = {value: tensor for host in hosts for value, tensor in host.inputs.items()}
    outputs = {value: tensor for host in hosts for value, tensor in host.outputs.items()}
    nodes, constants, weights = _with_constants(model, [host.node for host in hosts])
    stand_ins = {value.name: value for value in model.proto.graph.input}
    graph = helper.make_graph(
        nodes,
        "host",
        [*(ir.to_proto(value) for value in inputs), *(stand_ins[name] for name in weights)],
        [ir.to_proto(value) for value in outputs],
        constants,
    )
    piece = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=IR_VERSION)
    names = ", ".join(f"{qualified(host.node)} '{label(host.node)}'" for host in hosts[:4])
    names += f" and {len(hosts) - 4} more" if len(hosts) > 4 else ""
    functions = {(f.domain, f.name) for f in model.proto.functions}
    if {(node.domain, node.op_type) for node in piece.graph.node} & functions:
        raise CompileError(
            f"compile: {names} cannot be inlined, and a host step has no functions; export the model with one opset "
            "for itself and its functions"
        )
    content = Encoded.of(Skeleton(piece, {name: model.weights[name] for name in weights}))
    if len(content) > _MAX_MESSAGE_BYTES:
        raise CompileError(
            f"compile: {names} go to the host with {len(content)} bytes of constants, and one ONNX message ends at "
            f"{_MAX_MESSAGE_BYTES}; quantize them, or split the model"
        )
    try:
        check_host_model(piece.SerializeToString(), "host step")
        new_session(piece.SerializeToString())
    except ArtifactError as error:
        raise CompileError(f"compile: {names} cannot be a host step: {error}") from error
    except Exception as error:  # onnxruntime raises a class per status, all private
        reason = " ".join(str(error).split())
        raise CompileError(f"compile: neither edgekern nor onnxruntime can run {names}: {reason}") from error
    return HostRun(
        tuple(hosts),
        content,
        tuple((str(value.name), tensor) for value, tensor in inputs.items()),
        tuple((str(value.name), tensor) for value, tensor in outputs.items()),
        sum(macs(host.node) for host in hosts),
    )


def _with_constants(
    model: Skeleton, nodes: list[ir.Node]
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[str]]:
    """The nodes, those that only dequantize constants for them, and the initializers and weights that all read."""
    own = {name for node in nodes for value in node.outputs if (name := value.name)}
    chosen = set(own)
    wanted = _names_read([ir.to_proto(node) for node in nodes])
    graph = model.proto.graph
    made = {name: node for node in graph.node for name in node.output}
    stored = {tensor.name: tensor for tensor in graph.initializer}
    constants = {*stored, *model.weights}
    for node in graph.node:  # in the order in which they compute
        if node.input and all(not name or name in constants for name in node.input):
            constants.update(node.output)
    waiting = sorted(wanted - own)
    constant_nodes: set[str] = set()
    while waiting:
        maker = made.get(name := waiting.pop())
        if maker is None or name in constant_nodes or name not in constants:
            continue
        constant_nodes.update(maker.output)
        waiting += [source for source in maker.input if source]
    protos = [node for node in graph.node if chosen & set(node.output) or constant_nodes & set(node.output)]
    read = _names_read(protos)
    return protos, [stored[name] for name in sorted(read & set(stored))], sorted(read & set(model.weights))


def _names_read(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    names = {name for node in nodes for name in node.input if name}
    for node in nodes:
        for attribute in node.attribute:
            for body in [*attribute.graphs, *([attribute.g] if attribute.HasField("g") else [])]:
                names |= _names_read(body.node) - {name for inner in body.node for name in inner.output}
    return names
