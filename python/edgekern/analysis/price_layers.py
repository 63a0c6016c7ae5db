"""What each layer loses and costs in each recipe, measured: what a search chooses by."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from edgekern.analysis.figures import figures_of
from edgekern.analysis.gates import first_feed
from edgekern.analysis.layer_units import Unit, Units, read_behind, units_of
from edgekern.analysis.measure_sensitivity import arrays_of
from edgekern.analysis.solve_plan import Border, Follower, Held, Option, Problem
from edgekern.analysis.steady_times import conversion_ms, steady_steps
from edgekern.analysis.switchboard import Layer, Switchboard
from edgekern.calibration.progress import progress_bar
from edgekern.compiler import compile as compile_program
from edgekern.errors import EdgekernWarning
from edgekern.graph.families import QDQ
from edgekern.quantization import Choice, Plan, QuantConfig, plan_of, quantize
from edgekern.quantization.quantize_model import Switchable, quantize_switchable
from edgekern.runtime import InferenceSession

if TYPE_CHECKING:
    from edgekern.artifact import Program
    from edgekern.calibration import Ranges
    from edgekern.graph.dimensions import Shapes
    from edgekern.graph.model import ModelLike

Array = npt.NDArray[Any]
Kind = Literal["ms", "bytes", "bits", "share"]

STATIC = ("w8a8", "w4a8")  # whose activations have 8 bits in one scale a tensor
_BITS = {"INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}
_SEARCHED = frozenset({"recipe", "overrides", "keep_float", "first_layer", "last_layer"})  # what a config leaves to it
_SPLIT = "split"  # products in 8 bits, and floats between them
_PROBE = "probe"  # borders everywhere
_FACTORS = 0.25, 8.0


@dataclass(frozen=True)
class Weights:
    """Of one layer in one recipe: how many, the bits of each, and the bytes of all with their scales."""

    count: int
    bits: int
    nbytes: int


@dataclass(frozen=True)
class Priced:
    """One recipe of one unit."""

    recipe: str
    loss: float
    weights: Weights
    ms: float = 0.0

    @property
    def held(self) -> Held:
        return "8 bits" if self.recipe in STATIC else "16 bits" if self.recipe == "w8a16" else "float32"

    @property
    def is_wide(self) -> bool:
        """Whether more than 8 bits are multiplied."""
        return self.recipe == "float32" or "a16" in self.recipe


@dataclass(frozen=True)
class Prices:
    """Of all units.

    Attributes
    ----------
    units : what has recipes; options : of each unit
    borders, followers : as of :class:`~edgekern.analysis.solve_plan.Problem`; the borders cost milliseconds
    fixed_ms : of a run beside all units
    base : recipe of what is in no unit
    """

    units: tuple[Unit, ...]
    options: tuple[tuple[Priced, ...], ...]
    borders: tuple[Border, ...]
    followers: tuple[Follower, ...]
    fixed_ms: float
    base: str

    def recipes(self, picks: Sequence[int]) -> dict[str, str]:
        """Of every node that is in a unit, by the numbers of options."""
        taken = [options[pick].recipe for options, pick in zip(self.options, picks, strict=True)]
        return {node: recipe for unit, recipe in zip(self.units, taken, strict=True) for node in unit.nodes}

    def uniform(self, recipe: str) -> tuple[int, ...]:
        """A recipe wherever it can be, and float32 elsewhere."""
        return tuple(
            next((at for at, each in enumerate(options) if each.recipe == recipe), len(options) - 1)
            for options in self.options
        )

    def exact(self) -> tuple[int, ...]:
        """What loses least of each unit."""
        return tuple(min(range(len(o)), key=lambda at, o=o: (o[at].loss, o[at].ms)) for o in self.options)  # type: ignore[misc]

    def alternating(self) -> tuple[int, ...]:
        """The first option and the last one in turns, so that there are borders everywhere."""
        return tuple(at % 2 * (len(options) - 1) for at, options in enumerate(self.options))

    def problem(self, kind: Kind) -> Problem:
        """With costs as a budget has them: ms of a run, bytes or mean bits of weights, share of wide units."""
        count = sum(options[0].weights.count for options in self.options) or 1

        def cost(option: Priced) -> float:
            if kind == "ms":
                return option.ms
            if kind == "bytes":
                return float(option.weights.nbytes)
            if kind == "bits":
                return option.weights.bits * option.weights.count / count
            return float(option.is_wide) / len(self.units)

        layers = tuple(
            tuple(Option(each.recipe, each.loss, cost(each), each.held) for each in options) for options in self.options
        )
        timed = kind == "ms"
        return Problem(layers, self.borders if timed else (), self.followers, self.fixed_ms if timed else 0.0)


class Quantizer:
    """Writes one model by any recipes of its nodes, without a word about each."""

    def __init__(
        self, model: ModelLike, ranges: Ranges | None, config: QuantConfig, shapes: Shapes | None, function: str
    ) -> None:
        self.model, self.ranges, self.config, self.shapes, self.function = model, ranges, config, shapes, function

    def by(self, base: str, overrides: Mapping[str, str]) -> QuantConfig:
        """Some nodes by recipes of their own."""
        return Plan(
            tuple(Choice(node, "", recipe) for node, recipe in overrides.items()),  # type: ignore[arg-type]
            base,  # type: ignore[arg-type]
        ).config(**self.carried())

    def carried(self) -> dict[str, Any]:
        """What a user's config says of anything but recipes."""
        return {f.name: getattr(self.config, f.name) for f in fields(self.config) if f.name not in _SEARCHED}

    def write(self, config: QuantConfig) -> onnx.ModelProto:
        with _quietly():
            return quantize(self.model, self.ranges, config, shapes=self.shapes)

    def compiled(self, config: QuantConfig | None) -> Program:
        """None: of the float model."""
        return self.compiled_of(self.model if config is None else self.write(config))

    def compiled_of(self, model: ModelLike) -> Program:
        """Of the float model, or one that was written."""
        with _quietly():
            return compile_program(model, shapes=self.shapes if model is self.model else None)

    def board(self, config: QuantConfig) -> tuple[Switchable, Switchboard]:
        with _quietly():
            made = quantize_switchable(self.model, self.ranges, config, function=self.function, shapes=self.shapes)
        return made, Switchboard(made, function=self.function)


def price_layers(
    quantizer: Quantizer,
    data: object,
    candidates: Sequence[str],
    *,
    timed: bool,
    num_threads: int | None,
    progress: bool,
) -> Prices:
    """Measure every unit in every recipe that it can have.

    Each is rounded alone, and seen at the outputs. Where it is ``timed``, the model is compiled by each recipe
    everywhere, all programs are profiled in turns, and the time of a step is that of the layer that it is named for,
    or of the last one before it.
    """
    static = next((recipe for recipe in STATIC if recipe in candidates), None)
    rounding = sorted((each for each in candidates if each != "float32"), key=lambda each: each != static)
    base, function = static or "float32", quantizer.function
    first = quantizer.by(static or rounding[0], {})
    products = [choice.node for choice in plan_of(quantizer.write(first)).choices]
    if static is None:
        first = quantizer.by(base, dict.fromkeys(products, rounding[0]))
    made, board = quantizer.board(first)
    feeds = arrays_of(function, data, board.inputs, board.fed)
    units, split, split_board = units_of(board, products), None, None
    if static is not None:
        others = [node for unit in units.rows if not unit.is_product for node in unit.nodes]
        split = quantizer.by(static, dict.fromkeys(others, "float32"))
        split_board = quantizer.board(split)[1]
        units = units_of(board, products, split_board)
    between = [node for unit in units.rows if not unit.is_product for node in unit.nodes]
    found: list[list[Priced]] = [[] for _ in units.rows]
    followed: dict[str, float] = {}
    configs: dict[str, QuantConfig] = {}
    with progress_bar("rounding layers", len(rounding) * len(units.rows), enabled=progress) as step:
        for recipe in rounding:
            alike = dict.fromkeys(products, recipe)
            configs[recipe] = config = (
                quantizer.by(recipe, {})
                if recipe in STATIC
                else quantizer.by(base, alike | dict.fromkeys(between, "float32"))
            )
            taken = {c.node for c in plan_of(quantizer.write(config)).choices if c.recipe == recipe}
            made, board = quantizer.board(config)
            position = board.start(feeds)
            real = board.outputs(position, [], "both")
            # What a product gives in 16 bits is rounded where others read it, and they are no units in that recipe.
            behind = read_behind(board, products) if recipe not in STATIC else {}
            for at, unit in enumerate(units.rows):
                own = [
                    layer for layer in board.layers if layer.name in unit.nodes or layer in behind.get(unit.name, ())
                ]
                step()
                if not own or not (unit.name in taken if unit.is_product else recipe == static):
                    continue
                board.advance(position, min(layer.place for layer in own))
                loss = _noise(real, board.outputs(position, own, "both"))
                found[at].append(Priced(recipe, loss, _weights(made, own)))
    if split_board is not None:
        followed = _followed(split_board, [name for name, _ in units.followers], feeds)
    for at, unit in enumerate(units.rows):
        if not unit.is_product:  # the rest of its loss is there as long as others read the same in 8 bits
            left = sum(followed.get(node, 0.0) for node in unit.nodes)
            found[at] = [replace(each, loss=max(each.loss - left, 0.0)) for each in found[at]]
    for at, unit in enumerate(units.rows):
        if "float32" in candidates or not unit.is_product or not found[at]:
            count = found[at][0].weights.count if found[at] else 0
            found[at].append(Priced("float32", 0.0, Weights(count, 32, 4 * count)))
    prices = Prices(
        units.rows,
        tuple(map(tuple, found)),
        (),
        tuple(Follower(of, followed.get(name, 0.0)) for name, of in units.followers),
        0.0,
        base,
    )
    if not timed:
        return prices
    programs = {recipe: quantizer.compiled(config) for recipe, config in configs.items()}
    programs["float32"] = quantizer.compiled(None)
    if split is not None:
        programs[_SPLIT] = quantizer.compiled(split)
    picks = prices.alternating()
    programs[_PROBE] = quantizer.compiled(quantizer.by(base, prices.recipes(picks)))
    return _timed(prices, units, programs, picks, feeds, static, num_threads, function)


def _followed(board: Switchboard, names: Sequence[str], feeds: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """What each node of some names loses alone."""
    position = board.start(feeds)
    real = board.outputs(position, [], "both")
    found: dict[str, float] = {}
    for layer in board.layers:
        if layer.name in names:
            board.advance(position, layer.place)
            found[layer.name] = found.get(layer.name, 0.0) + _noise(real, board.outputs(position, [layer], "both"))
    return found


def _timed(
    prices: Prices,
    units: Units,
    programs: Mapping[str, Program],
    picks: Sequence[int],
    feeds: Sequence[Mapping[str, Array]],
    static: str | None,
    num_threads: int | None,
    function: str,
) -> Prices:
    sessions = [InferenceSession(program, num_threads=num_threads) for program in programs.values()]
    fed = first_feed(function, sessions[0], feeds)
    ran = dict(zip(programs, steady_steps(sessions, fed), strict=True))
    member = {node: at for at, unit in enumerate(units.rows) for node in unit.nodes}
    took = {name: _by_unit(steps, member, len(units.rows)) for name, (steps, _) in ran.items()}
    options = tuple(
        tuple(replace(each, ms=float(took[each.recipe][at])) for each in options)
        for at, options in enumerate(prices.options)
    )
    sizes = np.zeros(len(units.rows))
    for step in programs["float32"].steps:
        if step.name in member:
            sizes[member[step.name]] = np.prod(step.shape)
    rate = conversion_ms()
    borders, measured = list[Border](), list[Border]()
    for first, second in units.edges:
        cost = rate * float(sizes[first])
        between = [at for at in (first, second) if not units.rows[at].is_product]
        if static is not None and _SPLIT in took and len(between) == 1:
            at = between[0]
            edges = sum(at in edge for edge in units.edges)
            seen = float(took[_SPLIT][at] - took["float32"][at]) / edges
            if at == second:  # what stands behind a product may be done in it
                seen += max(float(took[_SPLIT][first] - took[static][first]), 0.0)
            if seen > cost:
                measured.append(Border(first, second, seen))
                continue
        borders.append(Border(first, second, cost))
    fixed_ms = min(beside for _, beside in ran.values())
    prices = replace(prices, options=options, borders=(*borders, *measured), fixed_ms=fixed_ms)
    # What fusions are lost at a border no rule foretells; a program with as many borders as can be does, on the whole.
    foretold = prices.problem("ms").cost(picks)
    crossed = foretold - replace(prices, borders=tuple(measured)).problem("ms").cost(picks)
    missed = float(sum(took[_PROBE])) + fixed_ms - foretold
    factor = float(np.clip(1 + missed / crossed, *_FACTORS)) if crossed > 0 else 1.0
    return replace(prices, borders=(*(replace(each, cost=factor * each.cost) for each in borders), *measured))


def _by_unit(steps: Sequence[tuple[str, float]], member: Mapping[str, int], count: int) -> npt.NDArray[np.float64]:
    """Milliseconds of each unit."""
    took, at = np.zeros(count), 0
    for name, ms in steps:
        at = member.get(name, at)
        took[at] += ms
    return took


def _noise(real: Sequence[Mapping[str, Array]], ours: Sequence[Mapping[str, Array]]) -> float:
    return float(10 ** (-figures_of(real, ours).sqnr_db / 10))


def _weights(made: Switchable, layers: Sequence[Layer]) -> Weights:
    """As the file holds them: integers, scales and zero points."""
    makers = {name: node for node in made.proto.graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in made.proto.graph.initializer}
    count = bits = nbytes = 0
    waiting, seen = [name for layer in layers for name in layer.weights], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if (node := makers.get(name)) is not None:
            waiting += node.input[:3] if node.op_type in QDQ else node.input[:1]  # not the shapes of a Reshape
            continue
        tensor = constants[name]
        size, kind = int(np.prod(tensor.dims)), onnx.TensorProto.DataType.Name(tensor.data_type)
        width = _BITS.get(kind) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        nbytes += (size * width + 7) // 8
        if "INT" in kind and size > count:
            count, bits = size, width
    return Weights(count, bits, nbytes)


@contextmanager
def _quietly() -> Iterator[None]:
    """Every recipe warns of what it leaves out; what is chosen in the end is quantized aloud."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        yield
