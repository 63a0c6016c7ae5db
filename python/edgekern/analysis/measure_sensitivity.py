"""Which layers make the error of a quantized model: each one rounded alone, seen at the outputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt
import onnx

from edgekern._arguments import flag, number
from edgekern._arrays import Lent, is_array, unnamed
from edgekern._reports import Chart, Report, table
from edgekern.analysis.figures import MOST_RELATIVE_MSE, SENSITIVE_DB, WATCH_DB, Figures, figures_of, mark
from edgekern.analysis.rules import chosen
from edgekern.analysis.switchboard import Switchboard
from edgekern.calibration.feeds import check_feeds
from edgekern.calibration.progress import progress_bar
from edgekern.errors import ArgumentValueError
from edgekern.quantization.quantize_model import quantize_switchable
from edgekern.runtime.element_types import tensor_type
from edgekern.runtime.interface import NodeArg

if TYPE_CHECKING:
    from edgekern.calibration import Ranges
    from edgekern.graph.model import ModelLike
    from edgekern.quantization import QuantConfig

Array = npt.NDArray[Any]
Outputs = Mapping[str, Array]
What = Literal["both", "weights", "activations"]
Metric = Literal["sqnr", "kl", "mse"] | Callable[[Outputs, Outputs], float]

_SHOWN = 20


@dataclass(frozen=True)
class SensitivityRow:
    """What rounding one layer alone does to the outputs of the model; of several outputs, to the worst one.

    Attributes
    ----------
    name, op : the node's, as rules of :class:`~edgekern.QuantConfig` name it
    score : the figure that the rows are sorted by
    sqnr_db : signal to noise in dB; infinite where nothing changes
    kl : relative entropy of the softmax of logits, in nats; None where no output has classes
    relative_mse : mean square error in variances of the output
    """

    name: str
    op: str
    score: float
    sqnr_db: float
    kl: float | None
    relative_mse: float

    @property
    def mark(self) -> str:
        """ "sensitive" below 25 dB; "watch" below 30, and where the MSE is more than a thousandth of the variance."""
        found = mark(self.sqnr_db)
        return "watch" if not found and self.relative_mse > MOST_RELATIVE_MSE else found

    @property
    def noise(self) -> float:
        """The power of the error in powers of the output."""
        return 10 ** (-self.sqnr_db / 10)


@dataclass(frozen=True, repr=False)
class Sensitivity(Report):
    """Rows of :func:`sensitivity`, worst first; ``str()`` is the table of the first 20.

    Attributes
    ----------
    rows : tuple of SensitivityRow
    metric : name of the metric
    what : what was rounded of each layer
    together_db : signal to noise of the outputs where all layers of the table are rounded together
    feeds : how many there were
    """

    rows: tuple[SensitivityRow, ...]
    metric: str
    what: str
    together_db: float
    feeds: int

    _derived: ClassVar[tuple[str, ...]] = ("mark",)

    def worst(self, count: int = 10) -> tuple[SensitivityRow, ...]:
        return self.rows[:count]

    def table(self, count: int | None = None) -> str:
        """The first rows, or all, with the share that each has in the sum of all layers' errors."""
        total = sum(row.noise for row in self.rows) or 1.0
        columns = {"layer": "<", "operator": "<", "SQNR dB": ".2f", "KL": ".3g", "MSE/var": ".3g", "share": ".1%"}
        own = self.metric not in get_args(get_args(Metric)[0])
        columns |= {"score": ".6g"} if own else {}
        shown = [
            (r.name, r.op, r.sqnr_db, r.kl, r.relative_mse, r.noise / total, *([r.score] if own else []), r.mark)
            for r in self.rows[:count]
        ]
        return table(columns | {"": "<"}, shown)

    def __str__(self) -> str:
        left = len(self.rows) - _SHOWN
        more = f"... and {left} layers less sensitive; table() has all, --json too\n" if left > 0 else ""
        feeds = f"{self.feeds} feed{'s' if self.feeds > 1 else ''}"
        return (
            f"{self.table(_SHOWN)}\n{more}each layer's {_TOLD[self.what]} rounded alone, seen at the outputs, worst "
            f"{self.metric} first; all together {self.together_db:.2f} dB; {feeds}"
        )

    def __repr__(self) -> str:
        worst = f", worst {self.rows[0].name!r} at {self.rows[0].sqnr_db:.2f} dB" if self.rows else ""
        return f"Sensitivity({len(self.rows)} layers, {self.what}, by {self.metric}{worst})"

    def _chart(self) -> Chart:
        limits = {"watch": WATCH_DB, "sensitive": SENSITIVE_DB}
        bars = [(row.name, row.sqnr_db) for row in self.rows]
        return Chart(f"Each layer's {_TOLD[self.what]} rounded alone", "SQNR of the outputs, dB", bars, limits)


_TOLD = {"both": "weights and activations", "weights": "weights", "activations": "activations"}


def sensitivity(
    float_model: ModelLike,
    ranges: Ranges | None,
    data: Iterable[Mapping[str, Lent]] | Mapping[str, Lent],
    config: QuantConfig | None = None,
    *,
    what: What = "both",
    metric: Metric = "sqnr",
    layers: Sequence[str] | None = None,
    progress: bool = True,
) -> Sensitivity:
    """Quantize each layer alone, the others in float32, and see what that does to the outputs.

    :func:`edgekern.compare` shows where an error is seen, this one where it is made. Scales and integers are those that
    :func:`edgekern.quantize` writes with the same config, and the same nodes are quantized. onnxruntime computes, from
    the layer on only: what it reads is kept from one float run.

    Parameters
    ----------
    float_model : path, bytes or onnx.ModelProto
        Before quantization.
    ranges : Ranges, or None where ``config`` needs none; as for :func:`edgekern.quantize`
    data : feeds by input name, or an iterable of them, in batches of any size that the model takes. All of it, and what
        the widest place of the float model holds of it, are in memory; some 16 samples tell the layers apart.
    config : QuantConfig, optional
    what : "both", "weights" or "activations"
        Which of a layer is rounded: its constants, the activations that it reads, or both. What no layer reads but the
        caller gets counts as the layer's that makes it. A layer of the recipe "w8a8-dynamic" runs on edgekern's own
        kernels for "both", since ONNX has no operator for its rows; "activations" leaves it out.
    metric : "sqnr", "kl", "mse", or a function
        What the rows are sorted by: signal to noise, relative entropy of the softmax of logits, mean square error in
        variances of the output. A function takes the outputs of the float model and those of the rounded one, each a
        mapping from output name to array with the feeds one behind the other along the first axis, and returns a
        number; the worst layer is the one whose number is furthest from what the function makes of two float models.
    layers : rules, optional
        Types of operators or patterns of node names, as for :class:`edgekern.QuantConfig`: only the layers named.
    progress : bool. Show a bar with the time left when standard error is a terminal.

    Returns
    -------
    Sensitivity
        A row a layer that is quantized, worst first.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When an argument has the wrong type or value, the data is empty, onnxruntime cannot run it, a rule names no
        layer, or the metric gives no number.
    QuantizationError
        As :func:`edgekern.quantize`: ranges of another model, a tensor without a range.

    Warns
    -----
    EdgekernWarning
        As :func:`edgekern.quantize`.
    """
    if not isinstance(what, str) or what not in _TOLD:
        raise ArgumentValueError(f"sensitivity: what must be one of {list(_TOLD)}, got {what!r}")
    score = _Score(metric)
    enabled = flag("sensitivity", "progress", progress)
    board = Switchboard(
        quantize_switchable(float_model, ranges, config, function="sensitivity"), function="sensitivity"
    )
    rounded = [layer for layer in board.layers if layer.rounded(what)]
    picked = chosen("sensitivity", rounded, layers, lambda layer: (layer.name, layer.op))
    if not picked:
        raise ArgumentValueError(
            f"sensitivity: what={what!r} must leave something to round, and none of the {len(board.layers)} layers "
            "that config quantizes has any; choose another what, config or layers"
        )
    feeds = arrays_of("sensitivity", data, board.inputs, board.fed)
    position = board.start(feeds)
    real = board.outputs(position, [], what)
    together = figures_of(real, board.outputs(position, picked, what))
    perfect = score.of(real, real, figures_of(real, real), "the float model")
    found: list[tuple[float, SensitivityRow]] = []
    with progress_bar("rounding layers", len(picked), enabled=enabled) as step:
        for layer in picked:
            board.advance(position, layer.place)
            ours = board.outputs(position, [layer], what)
            figures = figures_of(real, ours)
            value = score.of(real, ours, figures, f"layer {layer.name!r}")
            row = SensitivityRow(layer.name, layer.op, value, figures.sqnr_db, figures.kl, figures.relative_mse)
            found.append((_distance(value, perfect), row))
            step()
    found.sort(key=lambda each: (-each[0], each[1].sqnr_db))
    return Sensitivity(tuple(row for _, row in found), score.name, what, together.sqnr_db, len(feeds))


class _Score:
    """The figure that rows are sorted by."""

    def __init__(self, metric: Metric) -> None:
        names = get_args(get_args(Metric)[0])
        if not callable(metric) and (not isinstance(metric, str) or metric not in names):
            raise ArgumentValueError(f"sensitivity: metric must be one of {list(names)} or a function, got {metric!r}")
        self._metric = metric
        self.name = metric if isinstance(metric, str) else str(getattr(metric, "__name__", type(metric).__name__))

    def of(self, real: list[dict[str, Array]], ours: list[dict[str, Array]], figures: Figures, whose: str) -> float:
        if self._metric == "sqnr":
            return figures.sqnr_db
        if self._metric == "mse":
            return figures.relative_mse
        if self._metric == "kl":
            if figures.kl is None:
                raise ArgumentValueError(
                    "sensitivity: metric='kl' needs an output with two classes or more, and the model has none; choose "
                    "'sqnr' or 'mse'"
                )
            return figures.kl
        assert callable(self._metric)
        value = number("sensitivity", f"what metric returns for {whose}", self._metric(_joined(real), _joined(ours)))
        if math.isnan(value):
            raise ArgumentValueError(
                f"sensitivity: what metric returns must be a number, got NaN for {whose}; look for a division by 0, or "
                "for NaN in the outputs"
            )
        return value


def _distance(value: float, perfect: float) -> float:
    """How far a figure is from the best; of infinite ones, as SQNR has, the smaller is the further."""
    return -value if perfect == math.inf else abs(value - perfect)


def _joined(feeds: list[dict[str, Array]]) -> dict[str, Array]:
    outputs = {}
    for name in feeds[0]:
        arrays = [np.atleast_1d(outputs[name]) for outputs in feeds]
        try:
            outputs[name] = np.concatenate(arrays)
        except ValueError as error:
            raise ArgumentValueError(
                f"sensitivity: output {name!r} must have one shape in all feeds, but for the first axis, for a metric "
                f"of one's own, got {sorted({array.shape for array in arrays})}; give feeds of one size"
            ) from error
    return outputs


def arrays_of(
    function: str, data: object, names: Sequence[str], fed: Sequence[onnx.ValueInfoProto]
) -> list[dict[str, Array]]:
    """Feeds as arrays that fit a model's inputs; ``function`` is for errors."""
    if is_array(data) or not isinstance(data, Iterable):
        raise unnamed(function, "data", data, names)
    nodes = [_node(value) for value in fed]
    unranked = {value.name for value in fed if not value.type.tensor_type.HasField("shape")}
    feeds = []
    for given in [data] if isinstance(data, Mapping) else data:
        if not isinstance(given, Mapping):
            raise unnamed(function, "each of data", given, names)
        if set(given) != set(names):
            raise ArgumentValueError(
                f"{function}: each of data must have the inputs {list(names)}, got {list(given)}; name each array by "
                "its input"
            )
        feeds.append(check_feeds(function, given, nodes, unranked))
    if not feeds:
        raise ArgumentValueError(f"{function}: data is empty; give at least one feed")
    return feeds


def _node(value: onnx.ValueInfoProto) -> NodeArg:
    """An input as onnxruntime describes it."""
    kind = value.type.tensor_type
    sides = [side.dim_value if side.HasField("dim_value") else side.dim_param for side in kind.shape.dim]
    return NodeArg(value.name, sides, tensor_type(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)))
