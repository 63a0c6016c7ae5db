"""Float ONNX and ranges in; QDQ ONNX, or the encodings alone, out."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir
from onnx_ir.passes import common as passes

from edgekern._warn import warn_caller
from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.calibration import Ranges, model_hash
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ClippingWarning,
    EdgekernWarning,
    FloatFallbackWarning,
    QuantizationError,
    WidenedScaleWarning,
)
from edgekern.graph.contradiction import broken_rule, contradiction
from edgekern.graph.dimensions import fix_dimensions
from edgekern.graph.families import (
    CONVOLUTIONS,
    PRODUCTS,
    convolves_bytes,
)
from edgekern.graph.fold_constants import folded
from edgekern.graph.infer_types import with_types, without_false_shapes
from edgekern.graph.model import open_model, what_breaks_onnx
from edgekern.graph.opset import downgraded
from edgekern.graph.skeleton import Skeleton
from edgekern.graph.values import is_float_constant, label
from edgekern.quantization.borders import ByteBorders
from edgekern.quantization.choose_encodings import (
    encode_activations,
    encode_table,
    quantize_layer,
)
from edgekern.quantization.choose_recipes import choose_recipes, results_db
from edgekern.quantization.config import QuantConfig, Recipe
from edgekern.quantization.describe import (
    describe_bodies,
    describe_eight_bits,
    describe_widened,
    describe_without_rows,
    listed,
)
from edgekern.quantization.encodings import Encoding, Encodings
from edgekern.quantization.four_bits import groups_of
from edgekern.quantization.layer_inputs import LayerInputs
from edgekern.quantization.methods import group_rounding_of, methods_of, needs_samples
from edgekern.quantization.methods.float_model import Samples
from edgekern.quantization.place_qdq import Placement, place
from edgekern.quantization.plan import Choice, written
from edgekern.quantization.prepare import prepare
from edgekern.quantization.refusals import require_as_exported, require_same_model, require_something_to_do
from edgekern.quantization.roles import choose_by_role, embedding_tables
from edgekern.quantization.rules import apply_ends, apply_rules, is_kept, is_named, is_of_rows, recipe_of
from edgekern.quantization.write_qdq import QdqWriter
from edgekern.quantization.write_rows import WrittenRows, nodes_of_rows, write_rows

if TYPE_CHECKING:
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike


_NO_KERNEL = (
    "no kernel on 8 bits convolves groups over three dimensions, or transposes in groups or over three dimensions"
)


def quantize(
    model: ModelLike,
    ranges: Ranges | None,
    config: QuantConfig | None = None,
    *,
    samples: Samples | None = None,
    shapes: Shapes | None = None,
    progress: bool = True,
) -> onnx.ModelProto:
    """Write a float model as a standard QDQ model: weights of 8 or 4 bits, activations of 8 or 16, int32 biases.

    Parameters
    ----------
    model : path, bytes or onnx.ModelProto
        Float32, of any opset from 7 on that the installed onnx and onnxruntime know. It is not changed.
    ranges : Ranges or None
        Of this very model, from :meth:`edgekern.Calibrator.compute_ranges`. None where ``config`` asks for nothing that
        needs them: rows of ``"w8a8-dynamic"``, ``"w4a8-g32"`` and their like get their scales as they come.
    config : QuantConfig, optional
    samples : Calibrator or iterable of feeds, optional
        What ``rounding="gptq"`` and ``"adaround"`` look at: the samples that a :class:`edgekern.Calibrator` of this
        model kept, or mappings from the names of its inputs to arrays. Some dozens at least; they run through the float
        model in onnxruntime.
    shapes : mapping, optional
        Sizes of free dimensions, as for :func:`edgekern.compile`; the model that is written has them.
    progress : bool
        Show bars with the time left, where samples run, when standard error is a terminal.

    Returns
    -------
    onnx.ModelProto
        With the opset of the float model, or opset 13 where that is older, or the newest in which onnxruntime runs Q
        and DQ where that is newer; and with its names for inputs, outputs and activations. BatchNormalization is
        folded. What was done stands as JSON in its metadata, under ``edgekern.quantization``.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type, the model is not ONNX, its opset is unknown, or rounding needs samples and
        none are given.
    CalibrationError
        When there are no samples, or onnxruntime cannot run them.
    QuantizationError
        When the ranges are of another model or lack a tensor, a weight is NaN or infinite, or what was written is no
        valid ONNX.

    Warns
    -----
    EdgekernWarning
        When channels got a wider weight scale, so that no int32 accumulator can pass ``2**31``, and for each Conv, Gemm
        or MatMul that stays float32, because its weights are computed. Once for all that stand in bodies of If, Loop
        and Scan. When ranges cut off what 16 bits would hold.

    Notes
    -----
    The scheme, the choice of defaults and their accuracy: docs/quantization.md.
    """
    done = _quantized(model, ranges, config, "quantize", shapes, samples=samples, progress=progress)
    passes.RemoveUnusedNodesPass()(done.model)  # the float weights
    done.model.metadata_props[QUANTIZATION_KEY] = json.dumps(
        {
            "config": done.config.to_dict(),
            "front_end": [label(node) for node in done.front_end],
            "model_hash": done.ranges.model_hash,
            "plan": written(done.choices),
            **({} if (made := done.ranges.preprocessing) is None else {"preprocessing": dict(made)}),
            "ranges": {"method": done.ranges.method, **done.ranges.options, "sha256": _sha256(done.ranges)},
            "widened": done.widened,
        },
        sort_keys=True,
    )
    done.warn("quantize")
    # A fault of the float model's own, which onnxruntime does not mind, is not ours to report.
    reason = what_breaks_onnx(Skeleton.of_ir(done.model))
    if reason is not None and what_breaks_onnx(done.source) is None:
        raise QuantizationError(
            f"quantize: the QDQ model breaks a rule of ONNX that the float model keeps; this is a fault of edgekern, "
            f"report it with the model: {reason}"
        )
    return ir.serde.serialize_model(done.model)


def compute_encodings(
    model: ModelLike,
    ranges: Ranges | None,
    config: QuantConfig | None = None,
    *,
    samples: Samples | None = None,
    shapes: Shapes | None = None,
    progress: bool = True,
) -> Encodings:
    """What :func:`quantize` writes into the model, as values: the encoding of every quantized activation and weight.

    Parameters, errors and warnings are those of :func:`quantize`.
    """
    done = _quantized(model, ranges, config, "compute_encodings", shapes, samples=samples, progress=progress)
    done.warn("compute_encodings")
    return Encodings(done.encodings, done.ranges.model_hash)


@dataclass(frozen=True)
class Switchable:
    """A QDQ model that still holds its float constants, so that each layer can be put back into float32.

    Attributes
    ----------
    proto : with floats at its borders
    stands_for : of every tensor that nodes read dequantized the name of the float one, "" where there was none
    """

    proto: onnx.ModelProto
    stands_for: Mapping[str, str]


def quantize_switchable(
    model: ModelLike, ranges: Ranges | None, config: QuantConfig | None, *, function: str, shapes: Shapes | None = None
) -> Switchable:
    """What :func:`quantize` writes, before the float constants go; ``function`` is for its errors and warnings."""
    done = _quantized(model, ranges, config, function, shapes, float_borders=True)
    done.warn(function)
    return Switchable(ir.serde.serialize_model(done.model), done.stands_for)


@dataclass(frozen=True)
class _Quantized:
    """``source`` is the float model.

    ``widened`` lists, by the names of operators' results, the channels whose weight scale had to grow; ``in_bodies``
    holds the products that stand in bodies of If, Loop and Scan, ``front_end`` nodes that stay float32 by themselves,
    ``rows`` what was done of products by rows, ``static`` convolutions of 8 bits that a recipe of 4-bit weights was
    asked for, ``clipped`` names of 16-bit tensors whose ranges leave values out, ``stands_for`` is that of the writer.
    ``model`` holds the float weights, too.
    """

    source: Skeleton
    model: ir.Model
    ranges: Ranges
    config: QuantConfig
    encodings: dict[str, Encoding]
    widened: dict[str, list[int]]
    left_float: tuple[ir.Node, ...]
    in_bodies: tuple[ir.Node, ...]
    front_end: tuple[ir.Node, ...]
    rows: WrittenRows
    static: tuple[ir.Node, ...]
    choices: tuple[Choice, ...]
    clipped: tuple[str, ...]
    stands_for: dict[str, str]

    def warn(self, function: str) -> None:
        if self.in_bodies:
            warn_caller(
                f"{function}: {describe_bodies(self.in_bodies, all_of_it=not self.encodings)}", FloatFallbackWarning
            )
        if self.front_end:
            last = self.front_end[-1]
            warn_caller(
                f"{function}: {len(self.front_end)} nodes up to {last.op_type} {label(last)!r} stay float32: a "
                "front end with a logarithm spans more than 8 bits; overrides of QuantConfig quantize it all the same",
                FloatFallbackWarning,
            )
        if self.rows.without_rows:
            warn_caller(f"{function}: {describe_without_rows(self.rows.without_rows)}", FloatFallbackWarning)
        if self.static:
            warn_caller(
                f"{function}: {len(self.static)} convolutions share numbers between windows, and are 'w8a8' instead of "
                f"{self.config.recipe!r}: {listed(self.static)}",
                EdgekernWarning,
            )
        if self.rows.eight_bits:
            warn_caller(f"{function}: {describe_eight_bits(self.rows.eight_bits)}", EdgekernWarning)
        if self.clipped:
            warn_caller(
                f"{function}: {len(self.clipped)} tensors of 16 bits ({self.clipped[0]!r} is one) have ranges by "
                f"{self.ranges.method!r}, which leave values out for the sake of 8 bits; compute_ranges(method='max') "
                "leaves none out (edgekern calibrate --method max)",
                ClippingWarning,
            )
        for node in self.left_float:
            why = "its weights or bias are not float32 constants" if convolves_bytes(node) else _NO_KERNEL
            warn_caller(
                f"{function}: {node.op_type} {node.outputs[0].name!r} stays float32: {why}", FloatFallbackWarning
            )
        if self.widened:
            warn_caller(f"{function}: {describe_widened(self.widened)}", WidenedScaleWarning)


def _quantized(
    model: ModelLike,
    ranges: Ranges | None,
    config: QuantConfig | None,
    function: str,
    shapes: Shapes | None,
    *,
    samples: Samples | None = None,
    progress: bool = True,
    float_borders: bool = False,
) -> _Quantized:
    if ranges is not None and not isinstance(ranges, Ranges):
        raise ArgumentTypeError(
            f"{function}: ranges must be Ranges, got {type(ranges).__name__}; Calibrator.compute_ranges gives them"
        )
    if config is not None and not isinstance(config, QuantConfig):
        raise ArgumentTypeError(f"{function}: config must be a QuantConfig, got {type(config).__name__}")
    config = config or QuantConfig()
    if samples is None and needs_samples(config):
        raise ArgumentValueError(
            f"{function}: samples must be given where rounding is {config.rounding!r}, got None; give feeds, or the "
            "Calibrator that ranges are of, or choose the rounding 'filter_sum'"
        )
    opened = open_model(model, function=function)
    found = model_hash(opened)
    require_same_model(opened, found, ranges, function)
    proto, reason = downgraded(opened.proto)
    if reason is not None:
        raise QuantizationError(f"{function}: {reason}; export the model with an older opset")
    opened = fix_dimensions(opened.with_graph(proto), shapes, function=function)
    if (broken := broken_rule(opened)) is not None:
        raise QuantizationError(f"{function}: {broken}")
    try:
        ranges = Ranges({}, found, "none") if ranges is None else ranges
        shown = _Shown(samples if needs_samples(config) else None, progress)
        return _encoded(opened, ranges, config, function, shown, float_borders=float_borders)
    except Exception as error:
        reason = contradiction(opened, error)
        if reason is None:
            raise
        raise QuantizationError(f"{function}: {reason}") from error


def _encoded(
    opened: Skeleton, ranges: Ranges, config: QuantConfig, function: str, shown: _Shown, *, float_borders: bool
) -> _Quantized:
    graph_model = folded(with_types(without_false_shapes(opened)), function=function).to_ir()
    require_as_exported(graph_model.graph, function)
    front_end = apply_rules(graph_model.graph, config, function=function)
    prepare(graph_model)
    results = results_db(graph_model.graph, ranges, config.granularity)
    if config.recipe == "auto":
        choose_recipes(graph_model.graph, results)
    choose_by_role(graph_model.graph, config.recipe, calibrated=bool(ranges))
    apply_ends(graph_model.graph, config, function=function)
    borders = ByteBorders.of(graph_model.graph, config, function=function)
    placement = borders.placed(place(graph_model.graph))
    in_bodies = _products_in_bodies(graph_model.graph)
    require_something_to_do(
        graph_model.graph, bool(placement.source or in_bodies or any(map(is_kept, graph_model.graph))), function
    )
    if placement.source and not ranges:
        raise QuantizationError(
            f"{function}: {len(placement.source)} tensors become 8-bit ({next(iter(placement.source)).name!r} is one), "
            "and there are no ranges; collect them with edgekern.Calibrator, or choose the recipe 'w8a8-dynamic' or "
            "'w4a8-g32'"
        )
    activations = encode_activations(placement, ranges, config, function=function)
    activations = borders.encoded(placement, activations, ranges)
    encodings = {str(value.name): encoding for value, encoding in activations.items()}
    widened: dict[str, list[int]] = {}
    writer, methods = QdqWriter(graph_model.graph, placement, activations), methods_of(config)
    products = (*placement.weighted, *nodes_of_rows(graph_model.graph))
    with shown.inputs(opened, products, ranges.model_hash, function) as inputs:
        for node in placement.weighted:
            source, weights = node.inputs[:2]
            if source is None or weights is None or not is_float_constant(weights):
                continue
            layer = quantize_layer(
                node,
                activations[source],
                ranges,
                methods,
                function=function,
                granularity=config.granularity,
                shown={} if inputs is None else inputs.statistics(node),
            )
            result = str(node.outputs[0].name)
            if encodings.setdefault(str(weights.name), layer.encoding) != layer.encoding:
                encodings[f"{weights.name}:{result}"] = layer.encoding
            if layer.widened:
                widened[result] = list(layer.widened)
            writer.write_weights(node, layer)
        rows = write_rows(
            graph_model.graph, writer, methods, group_rounding_of(config), function=function, inputs=inputs
        )
    for name, encoding in rows.encodings.items():
        encodings.setdefault(name, encoding)
    tables = []
    for node in embedding_tables(graph_model.graph) if config.recipe == "mixed" else ():
        if node not in placement.integer and not is_named(node):
            table, encoding = encode_table(node, function=function)
            tables.append((node, table, encoding))
            if encodings.setdefault(str(table.name), encoding) != encoding:  # a product reads it, too
                encodings[f"{table.name}:{node.outputs[0].name}"] = encoding
    recipes: dict[str, Recipe] = {label(n): recipe_of(n) for n in placement.weighted}
    recipes |= rows.recipes
    if is_of_rows(config.recipe) and not encodings:
        rest = f"; {describe_without_rows(rows.without_rows)}" if rows.without_rows else ""
        if named := [node for node in graph_model.graph if is_named(node) and node in results]:
            rest += f"; rules leave {listed(named)} float32"
        raise QuantizationError(
            f"{function}: model has no Gemm, MatMul or Conv by a constant matrix and no LSTM, GRU or RNN, which "
            f"{config.recipe!r} is for{rest}"
        )
    writer.write_activations()
    for node, table, encoding in tables:  # last: Q of an activation stands behind the DQ of a table
        writer.write_table(node, table, encoding)
    if not float_borders:
        borders.write(graph_model.graph)
    return _Quantized(
        opened,
        graph_model,
        ranges,
        config,
        encodings,
        widened,
        placement.left_float,
        in_bodies,
        tuple(front_end),
        rows,
        tuple(_static_instead(placement, config)),
        tuple(Choice(label(n), n.op_type, recipes.get(label(n), "float32"), db) for n, db in results.items()),
        tuple(name for name, e in encodings.items() if e.bits > 8 and name in ranges and ranges[name].clipped_fraction),
        writer.stands_for,
    )


@dataclass(frozen=True)
class _Shown:
    """Samples, where rounding looks at them."""

    samples: Samples | None
    progress: bool

    @contextmanager
    def inputs(
        self, model: Skeleton, nodes: Sequence[ir.Node], found: str, function: str
    ) -> Iterator[LayerInputs | None]:
        """What they show of layers' inputs, under a bar."""
        if self.samples is None:
            yield None
            return
        inputs = LayerInputs(model, nodes, self.samples, model_hash=found, function=function)
        with inputs.bar(enabled=self.progress):
            yield inputs


def _static_instead(placement: Placement, config: QuantConfig) -> Iterator[ir.Node]:
    """Convolutions that are static under a recipe of groups, which no rule has asked for."""
    if groups_of(config.recipe) is not None:
        yield from (n for n in placement.weighted if n.op_type in CONVOLUTIONS and not is_named(n))


def _sha256(ranges: Ranges) -> str:
    """Of all values, so that files of one float model and other data are told apart."""
    return hashlib.sha256(json.dumps({name: asdict(ranges[name]) for name in sorted(ranges)}).encode()).hexdigest()


def _products_in_bodies(graph: ir.Graph) -> tuple[ir.Node, ...]:
    nodes = (node for node in graph.all_nodes() if node.graph is not graph)
    return tuple(node for node in nodes if node.domain == "" and node.op_type in PRODUCTS)
