"""Cut the runs of host nodes out of the model as ONNX models of their own, and prove that onnxruntime takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx import helper

from edgekern.artifact.host_model import check_host_model
from edgekern.compiler.passes.order_stages import Stage
from edgekern.compiler.steps import HostNode, Tensor
from edgekern.errors import ArtifactError, CompileError
from edgekern.graph.counted import forget_sizes
from edgekern.graph.evaluate import IR_VERSION, new_session
from edgekern.graph.exact_products import exact_products
from edgekern.graph.families import AVERAGES, MAXIMA
from edgekern.graph.prices import macs
from edgekern.graph.skeleton import Encoded, Skeleton, as_input
from edgekern.graph.subgraphs import bodies, names_read
from edgekern.graph.values import label, qualified, shape_of

_MAX_MESSAGE_BYTES = 2**31 - 1  # protobuf's limit
_IMAGE = 4  # axes
_CHANNEL_BLOCK = 8  # of onnxruntime's layout NCHWc; or 16, by machine


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


def extract_host(index: NodeIndex, hosts: Sequence[HostNode]) -> HostRun:
    """The sub-model of one run.

    Raises
    ------
    CompileError
        When onnxruntime cannot run it: nobody can. When its sub-model has what no program may carry.
    """
    model = index.model
    made = {value for host in hosts for value in host.node.outputs}
    inputs = {value: tensor for host in hosts for value, tensor in host.inputs.items() if value not in made}
    outputs = {value: tensor for host in hosts for value, tensor in host.outputs.items()}
    nodes, constants, weights = index.with_constants([host.node for host in hosts])
    graph = helper.make_graph(
        nodes,
        "host",
        [*(ir.to_proto(value) for value in inputs), *(as_input(model.weights[name].header) for name in weights)],
        [ir.to_proto(value) for value in outputs],
        constants,
    )
    if any(body for node in nodes for body in bodies(node)):
        forget_sizes(graph)
    piece = helper.make_model(graph, opset_imports=model.proto.opset_import, ir_version=IR_VERSION)
    names = ", ".join(f"{qualified(host.node)} '{label(host.node)}'" for host in hosts[:4])
    names += f" and {len(hosts) - 4} more" if len(hosts) > 4 else ""
    for host in hosts:
        if host.node.op_type in MAXIMA | AVERAGES and _ends_onnxruntime(host.node):
            raise CompileError(
                f"compile: {qualified(host.node)} '{label(host.node)}' has a window larger than what it reads, and an "
                "empty result: onnxruntime would divide by its size, and end the process; give it a larger input"
            )
    functions = {(f.domain, f.name) for f in model.proto.functions}
    if {(node.domain, node.op_type) for node in piece.graph.node} & functions:
        raise CompileError(
            f"compile: {names} cannot be inlined, and a host step has no functions; export the model with one opset "
            "for itself and its functions"
        )
    exact = exact_products(Skeleton(piece, {name: model.weights[name] for name in weights}))
    piece, content = exact.proto, Encoded.of(exact)
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


class NodeIndex:
    """The nodes of a model by what they make: looked up once for all runs that are cut out of it."""

    def __init__(self, model: Skeleton) -> None:
        self.model = model
        self._nodes = list(model.proto.graph.node)
        self._place = {name: at for at, node in enumerate(self._nodes) for name in node.output if name}
        self._stored = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self._constants = {*self._stored, *model.weights}
        for node in self._nodes:  # in the order in which they compute
            if node.input and names_read(node) <= self._constants:
                self._constants.update(node.output)

    def with_constants(
        self, nodes: Sequence[ir.Node]
    ) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto], list[str]]:
        """The nodes, those that only dequantize constants for them, and the initializers and weights that all read."""
        places = {self._place[name] for node in nodes for value in node.outputs if (name := value.name)}
        waiting = list(places)
        read: set[str] = set()
        while waiting:
            new = names_read(self._nodes[waiting.pop()]) - read
            read |= new
            makers = {self._place[name] for name in new & self._constants if name in self._place} - places
            places |= makers
            waiting += makers
        return (
            [self._nodes[place] for place in sorted(places)],
            [self._stored[name] for name in sorted(read) if name in self._stored],
            sorted(name for name in read if name in self.model.weights),
        )


def _ends_onnxruntime(node: ir.Node) -> bool:
    """Whether a pooling of images leaves no row: with channels in blocks onnxruntime divides by their number."""
    given, made = shape_of(node.inputs[0]) or (), shape_of(node.outputs[0]) or ()
    image = len(given) == len(made) == _IMAGE
    return image and made[2] == 0 and 0 not in given and given[1] % _CHANNEL_BLOCK == 0
