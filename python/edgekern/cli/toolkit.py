"""From a float model to a program: commands that need the toolkit extra."""

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from edgekern import calibration, compiler, files, quantization
from edgekern import quickstart as quickstart_room
from edgekern.artifact import Program
from edgekern.calibration.sources import files_of
from edgekern.cli.data import read_pads, read_shapes, read_sizes
from edgekern.cli.session import told
from edgekern.cli.sources import PLAIN, DataOptions, as_ranges, open_data
from edgekern.cli.terminal import printable
from edgekern.errors import ArgumentValueError, EdgekernWarning
from edgekern.file_kinds import kind_of_file
from edgekern.graph.model import model_files, open_model
from edgekern.quantization.config import Granularity, GroupScales, ModelRecipe, Recipe, Rounding
from edgekern.quantization.methods import needs_samples


def quickstart(save: Path | None) -> str:
    return str(quickstart_room.run(save=save))


class Rules(NamedTuple):
    """What has which recipe, and what becomes bytes, as the command line has it: RULE=RECIPE, rules, NAME=TYPE."""

    overrides: Sequence[str] = ()
    keep_float: Sequence[str] = ()
    inputs: Sequence[str] = ()
    outputs: Sequence[str] = ()
    first_layer: Recipe | None = None
    last_layer: Recipe | None = None


class Seen(NamedTuple):
    """Samples that rounding looks at, as the command line has them: data, or the file of a calibration."""

    data: Sequence[Path] = ()
    given: DataOptions = PLAIN
    checkpoint: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All that is read."""
        return [*files_of(self.data), *self.given.files, *([self.checkpoint] if self.checkpoint else [])]

    def samples(self, model: Path, ranges: Path | None, shapes: dict[str, Any] | None) -> Any:
        """For :func:`edgekern.quantize`; None where none are named."""
        if self.data and self.checkpoint is not None:
            raise ArgumentValueError("quantize: --data and --checkpoint both name samples; leave one of them out")
        if self.checkpoint is not None:
            return calibration.Calibrator.resume(model, self.checkpoint, shapes=shapes)
        if not self.data:
            return None
        calibrator = calibration.Calibrator(model, tensors=[], shapes=shapes)
        return open_data(self.data, calibrator, as_ranges(self.given, ranges))


def quantize(
    model: Path,
    ranges: Path | None,
    output: Path,
    *,
    recipe: ModelRecipe = "auto",
    activations: Literal["u8", "s8"],
    granularity: Granularity = "channel",
    group_scales: GroupScales = "max",
    rounding: Rounding = "filter_sum",
    seen: Seen | None = None,
    rules: Rules | None = None,
    shapes: list[str] | None = None,
    plan: bool = False,
    apply: Path | None = None,
) -> str:
    seen = seen or Seen()
    inputs = [*model_files(model, function="quantize"), *(path for path in (ranges, apply) if path), *seen.files]
    files.check_target(output, function="quantize", inputs=inputs)
    rules = rules or Rules()
    overrides: dict[str, Any] = {}
    for given in rules.overrides:
        rule, equals, named = given.rpartition("=")
        if not equals:
            raise ArgumentValueError(f"quantize: --override must be RULE=RECIPE, as Conv=float32, got {given!r}")
        overrides[rule] = named
    ends = {"first_layer": rules.first_layer, "last_layer": rules.last_layer}
    common: dict[str, Any] = {"inputs": _borders(rules.inputs), "outputs": _borders(rules.outputs)}
    common |= {"activations": activations, "granularity": granularity, "group_scales": group_scales}
    common |= {"rounding": rounding, "keep_float": rules.keep_float, **ends}
    if apply is None:
        config = quantization.QuantConfig(recipe=recipe, overrides=overrides, **common)
    elif overrides or recipe != "auto":
        raise ArgumentValueError("quantize: --apply must stand without --recipe and --override; edit the plan instead")
    else:
        config = quantization.Plan.load(apply).config(model, **common)
    read = calibration.Ranges.load(ranges) if ranges else None
    sizes = read_shapes("quantize", shapes)
    samples = seen.samples(model, ranges, sizes)
    if samples is not None and not needs_samples(config):
        raise ArgumentValueError(
            f"quantize: --data and --checkpoint are for roundings gptq and adaround, got {rounding!r}; leave them out"
        )
    qdq = quantization.quantize(model, read, config, samples=samples, shapes=sizes)
    with files.atomic_write(output, function="quantize", inputs=inputs) as file:
        file.write(qdq.SerializeToString())
    followed = quantization.plan_of(qdq)
    products = ", ".join(f"{count} by {name}" for name, count in sorted(followed.counts().items()))
    lines = [f"{output}: {output.stat().st_size} bytes, {len(qdq.graph.node)} nodes; products: {products or 'none'}"]
    return printable("\n".join([*lines, *(["", str(followed)] if plan else [])]))


def _borders(given: Sequence[str]) -> Any:
    """One type for all, or a mapping from names to types."""
    if not given or (len(given) == 1 and "=" not in given[0]):
        return given[0] if given else "float32"
    return dict(text.rpartition("=")[::2] for text in given)


def inspect(model: Path, *, batch: str, shapes: list[str] | None = None, as_json: bool = False) -> str:
    """Compiles it, and writes nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # the summary has it all
        program = compiler.compile(model, batch=read_sizes("inspect", batch), shapes=read_shapes("inspect", shapes))
    if as_json:
        return told(program)
    counts = Counter(node.op_type for node in open_model(model, function="inspect").proto.graph.node)
    became = f"{len(program.steps)} steps and {len(program.host_steps)} of the host"
    first, *rest = program.summary().splitlines()
    lines = [
        f"{model}: {first}",
        f"{counts.total()} nodes, which would be {became}",
        "operators: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())),
    ]
    lines += ["", program.explain()] if program.nodes else []
    return printable("\n".join([*lines, "", *rest]))


def compile(
    model: Path | None,
    output: Path,
    *,
    modes: Sequence[str] | None = None,
    batch: str,
    allow_host: bool,
    shapes: list[str] | None = None,
    pads: list[str] | None = None,
) -> str:
    if (model is None) == (not modes):
        raise ArgumentValueError("compile: MODEL or --mode NAME=MODEL must be given, one of the two")
    given = _modes(modes or [])
    inputs = [file for path in ([model] if model else given.values()) for file in _files_of(path)]
    files.check_target(output, function="compile", inputs=inputs)
    options: dict[str, Any] = {
        "batch": read_sizes("compile", batch),
        "shapes": read_shapes("compile", shapes),
        "pad": read_pads("compile", pads),
        "allow_host": allow_host,
    }
    if model is not None:
        program = compiler.compile(model, **options)
    else:
        models = {name: Program.load(path) if _is_program(path) else path for name, path in given.items()}
        program = compiler.compile_modes(models, **options)
    program.save(output)
    return f"{program.summary()}\n{output}: {output.stat().st_size} bytes"


def _modes(given: Sequence[str]) -> dict[str, Path]:
    """NAME=MODEL, as the command line has it."""
    found: dict[str, Path] = {}
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name or not path or name in found:
            raise ArgumentValueError(
                f"compile: --mode must be NAME=MODEL, as accuracy=w8a16.onnx, each name once, got {text!r}"
            )
        found[name] = Path(path)
    return found


def _is_program(path: Path) -> bool:
    return kind_of_file(path) == "ekm"


def _files_of(path: Path) -> list[Path]:
    return [path] if _is_program(path) else list(model_files(path, function="compile"))
