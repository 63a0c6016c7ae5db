"""ONNX in, the program of one size out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import onnx
import onnx.inliner
import onnx_ir as ir

from edgekern import _core
from edgekern._core import StepKind
from edgekern.artifact import Manifest, ModelMetadata
from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.artifact.nodes import NodePlace
from edgekern.compiler.emit import BlobStore, emit_program
from edgekern.compiler.explain import explain
from edgekern.compiler.floats.table import FLOATS
from edgekern.compiler.memory import refuse_large, smaller_plan
from edgekern.compiler.metadata import metadata_of
from edgekern.compiler.passes.clamp_reals import clamp_reals
from edgekern.compiler.passes.drop_unread import drop_unread
from edgekern.compiler.passes.expand_functions import expand_functions
from edgekern.compiler.passes.expand_quantized_lstms import expand_quantized_lstms
from edgekern.compiler.passes.extract_hosts import HostRun, NodeIndex, connect_hosts, extract_host
from edgekern.compiler.passes.finish_maps import finish_maps
from edgekern.compiler.passes.fix_batch import fix_batch
from edgekern.compiler.passes.fold_lookups import fold_lookups
from edgekern.compiler.passes.fold_norms import fold_norms
from edgekern.compiler.passes.fuse_conversions import fuse_conversions
from edgekern.compiler.passes.fuse_epilogues import fuse_epilogues
from edgekern.compiler.passes.fuse_maps import fuse_maps
from edgekern.compiler.passes.fuse_residuals import fuse_residuals
from edgekern.compiler.passes.fuse_scales import fuse_scales
from edgekern.compiler.passes.join_branches import join_branches, too_dear
from edgekern.compiler.passes.join_norms import join_norms
from edgekern.compiler.passes.lower_graph import lower_graph
from edgekern.compiler.passes.observe_shapes import observe_shapes
from edgekern.compiler.passes.order_stages import order_stages
from edgekern.compiler.passes.recognize_gelu import recognize_gelu
from edgekern.compiler.passes.rewrite_einsum import rewrite_einsum
from edgekern.compiler.passes.simplify_graph import simplify_graph
from edgekern.compiler.place_nodes import place_nodes
from edgekern.compiler.roles import Placement
from edgekern.compiler.steps import Tensor
from edgekern.errors import ArgumentValueError, CompileError, HostStepError, HostStepWarning
from edgekern.graph.contradiction import broken_rule, contradiction
from edgekern.graph.dimensions import fix_dimensions
from edgekern.graph.families import INTEGER, MOVES, QDQ
from edgekern.graph.fold_constants import fold_constants
from edgekern.graph.halves import stored_halves
from edgekern.graph.integer_forms import write_integer_forms
from edgekern.graph.model import open_model, parse_model
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import label, mark_constants, qualified
from edgekern.quantization.prepare import fold_channels

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

# What computes nothing: it brings values to a host step and back.
_MOVES = frozenset(
    {
        StepKind.QUANTIZE,
        StepKind.QUANTIZE_NCHW,
        StepKind.DEQUANTIZE,
        StepKind.DEQUANTIZE_NCHW,
        StepKind.SLICE,
        StepKind.PAD,
        StepKind.TRANSPOSE,
        StepKind.CONCAT,
        StepKind.CONSTANT,
    }
)


@dataclass(frozen=True)
class Compiled:
    """The program of one size; its blobs lie in a store."""

    index: _core.ProgramIndex
    manifest: Manifest
    nodes: tuple[NodePlace, ...]
    largest: Tensor
    metadata: ModelMetadata  # of the first size


def open_size(qdq: ModelLike, batch: int, shapes: Shapes | None) -> Skeleton:
    """The model with one size of every dimension."""
    opened = fix_dimensions(open_qdq(qdq), shapes, function="compile")
    if opened.proto.functions:
        opened = opened.with_graph(onnx.inliner.inline_local_functions(opened.proto))
    write_integer_forms(opened)
    fix_batch(opened, batch, shapes)
    return opened


def compile_size(
    qdq: ModelLike, batch: int, shapes: Shapes | None, store: BlobStore, size: int, *, allow_host: bool
) -> Compiled:
    """Compile for one size of every dimension.

    Parameters
    ----------
    qdq, batch, shapes, allow_host : as of :func:`edgekern.compile`, which has the errors, too
    store : takes the blobs
    size : how many programs of other sizes were compiled into it before
    """
    opened = open_size(qdq, batch, shapes)
    if (broken := broken_rule(opened)) is not None:
        raise CompileError(f"compile: {broken}")
    try:
        return _compiled(opened, store, size, allow_host=allow_host)
    except Exception as error:
        reason = contradiction(opened, error)
        if reason is None:
            raise
        raise CompileError(f"compile: {reason}") from error


def _compiled(opened: Skeleton, store: BlobStore, size: int, *, allow_host: bool) -> Compiled:
    proto = opened.proto
    expand_quantized_lstms(opened)
    fold_constants(opened)
    while expand_functions(opened):
        fold_constants(opened)
    model, placement = _placed(opened)
    if placement.hosts and not allow_host:
        raise HostStepError(_refusal(model.graph, placement, _why_unquantized(proto)))
    simplified = Skeleton.of_ir(model)
    lowering, results = lower_graph(model.graph, placement, simplified)
    # Simplifying may leave one tensor under one name where the graph returns it under two.
    outputs = dict(zip((value.name for value in proto.graph.output), results, strict=True))
    items = drop_unread(lowering.items, results)
    items = fold_lookups(items, results)
    items = fuse_residuals(items, results)
    items = fuse_maps(items, results)
    items = fuse_scales(items, results)
    recognize_gelu(items)
    items = fuse_epilogues(items, results)
    items = fuse_conversions(items, results)
    finish_maps(items)
    stages = order_stages(items)
    connect_hosts(stages, lowering.plain)
    index = NodeIndex(simplified)
    runs = [extract_host(index, stage.hosts) for stage in stages if stage.hosts]
    if size == 0:  # the others have the same nodes
        idle = all(step.kind in _MOVES for stage in stages for step in stage.steps)
        _warn(runs, _why_unquantized(proto) if idle else "", idle=idle)
    stages, plan = smaller_plan(stages, list(lowering.inputs.values()), results)
    quantization = next((entry.value for entry in proto.metadata_props if entry.key == QUANTIZATION_KEY), "")
    store.halves = stored_halves(proto)
    program, manifest = emit_program(stages, runs, plan, lowering.inputs, outputs, quantization, store, size)
    largest = max(plan.tensors, key=lambda tensor: tensor.size)
    told = metadata_of(proto) if size == 0 else ModelMetadata()
    return Compiled(program, manifest, explain(model.graph, placement), largest, told)


def _placed(opened: Skeleton) -> tuple[ir.Model, Placement]:
    """What runs where, both bodies of an If on kernels where those have all that is in them."""
    model = _observed(opened)
    left_out: set[str] = set()
    while (joined := join_branches(model, left_out)) is not None:
        skeleton, owners = joined
        try:
            fold_constants(skeleton)
            flat = _observed(skeleton)
            placement = _prepared(flat)
        except CompileError:  # a shape in a body that depends on data, say, which nobody outside of it sees
            break
        results = {str(value.name) for node in placement.hosts for value in node.outputs}
        unwanted = {owner for prefix, owner in owners.items() if any(name.startswith(prefix) for name in results)}
        unwanted |= too_dear(flat.graph, owners)
        if not unwanted:
            return flat, placement
        left_out |= unwanted
    return model, _prepared(model)


def _observed(opened: Skeleton) -> ir.Model:
    model = opened.to_ir()
    simplify_graph(model)
    observe_shapes(model)
    return model


def _prepared(model: ir.Model) -> Placement:
    refuse_large(model.graph)
    clamp_reals(model.graph)
    fold_norms(model.graph)
    fold_channels(model.graph)
    join_norms(model.graph)
    rewrite_einsum(model.graph)
    mark_constants(model.graph)
    return place_nodes(model.graph)


def open_qdq(qdq: ModelLike) -> Skeleton:
    try:
        return open_model(qdq, function="compile")
    except ArgumentValueError as error:
        unknown = _unknown_operators(qdq)
        if not unknown:
            raise
        raise CompileError(f"compile: neither edgekern nor onnxruntime can run {', '.join(unknown)}") from error


def _unknown_operators(qdq: ModelLike) -> list[str]:
    """Nodes of ONNX's own domain whose operator ONNX does not know."""
    try:
        proto = parse_model(qdq, function="compile").proto
    except (ArgumentValueError, OSError):  # not ONNX at all: the first error says so
        return []
    known = {schema.name for schema in onnx.defs.get_all_schemas()}
    functions = {function.name for function in proto.functions}
    unknown = [n for n in proto.graph.node if n.domain in ("", "ai.onnx") and n.op_type not in known | functions]
    return [f"{node.op_type} '{node.name or next(iter(node.output), '')}'" for node in unknown]


def _why_unquantized(proto: onnx.ModelProto) -> str:
    """What keeps all of a model off the kernels, and the remedy; nothing where it is in QDQ form."""
    found = {node.op_type for node in proto.graph.node}
    integer = sorted((found & INTEGER) - FLOATS.keys())
    if integer:
        return (
            f"it is quantized as {', '.join(integer)}, and not by QuantizeLinear and DequantizeLinear; give the float "
            "model to edgekern.quantize, or export it in QDQ form"
        )
    if found & QDQ:
        return ""
    return (
        "it is not quantized, as it has no QuantizeLinear; collect ranges with edgekern.Calibrator and compile the "
        "result of edgekern.quantize"
    )


def _refusal(graph: ir.Graph, placement: Placement, unquantized: str) -> str:
    nodes = [node for node in graph if node in placement.hosts]
    lines = [f"  {qualified(node)} '{label(node)}': {placement.reasons[node]}" for node in nodes]
    count = "1 node needs" if len(nodes) == 1 else f"{len(nodes)} nodes need"
    idle = all(node in placement.hosts or node.op_type in QDQ | MOVES for node in graph)
    lines += [f"Nothing of the model runs on a kernel: {unquantized}"] if idle and unquantized else []
    return "\n".join([f"compile: {count} the host, and allow_host=False forbids it; see docs/operators.md", *lines])


def _warn(runs: Sequence[HostRun], unquantized: str, *, idle: bool) -> None:
    if not runs:
        return
    nodes = [host for run in runs for host in run.nodes]
    shown = "; ".join(f"{qualified(host.node)} '{label(host.node)}': {host.reason}" for host in nodes[:4])
    more = f"; and {len(nodes) - 4} more" if len(nodes) > 4 else ""
    why = unquantized or "no operator reads 8 bits and gives 8 bits, see docs/operators.md"
    nothing = f"nothing of the model runs on a kernel of edgekern's: {why}. " if idle else ""
    warnings.warn(
        f"compile: {nothing}{len(nodes)} nodes run on the host (onnxruntime), in {len(runs)} steps: {shown}{more}",
        HostStepWarning,
        stacklevel=6,
    )
