"""Commands on sample data, as typer has them; all read it with the same options."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgekern.calibration import AnyMethod
from edgekern.cli.sources import DataOptions

Existing = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
Data = Annotated[
    list[Path],
    typer.Argument(
        exists=True,
        help=".npz, .npy, .bin, .wav, text, an input_list.txt, MNN's calibration JSON, or a folder of such files or of "
        "pictures",
    ),
]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SIZES",
        help="Sizes of free dimensions: input_ids=1,128 of an input (? leaves one), sequence=128 by name. Repeatable.",
    ),
]
_PICTURES, _OTHERS = "Pictures", "Other data"


def _option(text: str, metavar: str | None = None, panel: str = _OTHERS, **given: Any) -> Any:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=panel, **given)


Kind = Annotated[str | None, _option("arrays, raw, calib_set, input_list, mnn, images, wav or text.", "KIND")]
Samples = Annotated[int | None, _option("Take so many, evenly spread.", min=1)]
Preset = Annotated[
    Literal["imagenet", "unit", "symmetric"] | None,
    _option("256, crop 224, ImageNet's mean and std; or 0..1; or -1..1.", panel=_PICTURES),
]
Size = Annotated[str | None, _option("The shorter side, or stretch to HxW.", "N or HxW", _PICTURES)]
Crop = Annotated[str | None, _option("Of the centre; default: the model's size.", "N or HxW", _PICTURES)]
Scale = Annotated[float | None, _option("(pixel * scale - mean) / std of 0..255.", panel=_PICTURES)]
Mean = Annotated[str | None, _option("One number, or one a channel.", "X,X,X", _PICTURES)]
Std = Annotated[str | None, _option("The same of the deviation.", "X,X,X", _PICTURES)]
Channels = Annotated[Literal["RGB", "BGR", "GRAY"] | None, _option("Default: by the model.", panel=_PICTURES)]
Layout = Annotated[Literal["NCHW", "NHWC"] | None, _option("Default: by the model.", panel=_PICTURES)]
MaxUnreadable = Annotated[
    float | None, _option("Share that may be damaged; they are named. Default 0.01.", min=0, max=1)
]
Rate = Annotated[int | None, _option("Of the model, for .wav: Hz.", min=1)]
Tokenizer = Annotated[Path | None, _option("tokenizer.json, for texts.", exists=True, dir_okay=False)]
How = Annotated[
    Path | None, _option("Ranges whose data was read in the same way.", "RANGES", exists=True, dir_okay=False)
]
MaxLength = Annotated[int | None, _option("Tokens of a text.", min=1)]


def add_commands(app: typer.Typer, panel: str) -> None:
    """Those that make and use data, then those that tell what 8 bits cost on it."""

    def command(name: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
        return app.command(name, rich_help_panel=panel)

    command("calibrate")(calibrate)
    command("calibration-set")(calibration_set)
    command("evaluate")(evaluate)
    command("sensitivity")(sensitivity)
    command("compare")(compare)
    command("coverage")(coverage)


def calibrate(
    model: Existing,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the ranges go (JSON).")],
    method: Annotated[
        Literal["best", AnyMethod],
        typer.Option(
            help="How thresholds are chosen. best: quantize by each method, and take the one whose model is nearest to "
            "the float one; auto: for each tensor, by the outputs of what reads it."
        ),
    ] = "best",
    batch: Annotated[
        int | None,
        typer.Option(
            min=0, help="Rows that run at a time; 0: a whole file. Default: the model's batch, 8 where that is free."
        ),
    ] = None,
    shape: Shape = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that share the work.")] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(help="Save what was counted here, and go on from it where it exists.")
    ] = None,
    table: Annotated[
        bool, typer.Option("--table", help="Print scale, zero point, range, clipped share, MSE and KL of every tensor.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The table as JSON.")] = False,
    kind: Kind = None,
    samples: Samples = None,
    preset: Preset = None,
    size: Size = None,
    crop: Crop = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    layout: Layout = None,
    max_unreadable: MaxUnreadable = None,
    rate: Rate = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Run a float ONNX model on data and write the range of every activation."""
    from edgekern.cli import samples as commands  # onnx and onnxruntime take a second to import

    given = DataOptions(
        **pictures(preset, size, crop, scale, mean, std, channels, layout),
        **others(kind, batch, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
    )
    done = commands.calibrate(
        model,
        data,
        output,
        method=method,
        given=given,
        shapes=shape,
        workers=workers,
        checkpoint=checkpoint,
        table=table,
        as_json=as_json,
    )
    typer.echo(done)


def calibration_set(
    data: Data,
    model: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Whose inputs the samples are for.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A file for calib_set, else a new folder.")],
    form: Annotated[
        Literal["bin", "calib_set", "input_list", "npz"],
        typer.Option(help="A raw file a sample; one file of all; raw files with QNN's list; NumPy's, a file a batch."),
    ] = "calib_set",
    batch: Annotated[int | None, typer.Option(min=1, help="Rows of a .npz. Default: the model's, or 8.")] = None,
    shape: Shape = None,
    kind: Kind = None,
    samples: Samples = None,
    preset: Preset = None,
    size: Size = None,
    crop: Crop = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    layout: Layout = None,
    max_unreadable: MaxUnreadable = None,
    rate: Rate = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Write samples as other tools take them: .bin files, calib_set.bin, input_list.txt, .npz."""
    from edgekern.cli import samples as commands

    given = DataOptions(
        **pictures(preset, size, crop, scale, mean, std, channels, layout),
        **others(kind, batch, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
    )
    typer.echo(commands.calibration_set(data, model, output, form=form, given=given, shapes=shape))


def evaluate(
    model: Existing,
    data: Data,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="CSV with the columns file and label; .npy of class numbers; or the word folders: the folder of a "
            "file is its class."
        ),
    ] = None,
    label_offset: Annotated[int, typer.Option(help="Added to labels; 1 where class 0 is the background.")] = 0,
    vs: Annotated[Path | None, typer.Option(exists=True, dir_okay=False, help="The float model.")] = None,
    top: Annotated[str | None, typer.Option(metavar="K,K", help="Which shares to count; default: 1,5.")] = None,
    output: Annotated[str | None, typer.Option(help="Name of the scores; default: the first output.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, by class too, as JSON.")] = False,
    batch: Annotated[int | None, typer.Option(min=1, help="Rows that run at a time; default: the model's.")] = None,
    kind: Kind = None,
    samples: Samples = None,
    preset: Preset = None,
    size: Size = None,
    crop: Crop = None,
    scale: Scale = None,
    mean: Mean = None,
    std: Std = None,
    channels: Channels = None,
    layout: Layout = None,
    max_unreadable: MaxUnreadable = None,
    rate: Rate = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Count what a classifier, compiled or ONNX, gets right, beside its float model."""
    from edgekern.cli import samples as commands

    given = DataOptions(
        labels=labels,
        label_offset=label_offset,
        **pictures(preset, size, crop, scale, mean, std, channels, layout),
        **others(kind, batch, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
    )
    typer.echo(commands.evaluate(model, data, versus=vs, given=given, top=top, output=output, as_json=as_json))


RangesFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Of edgekern calibrate.")]
Json = Annotated[bool, typer.Option("--json", help="All figures, as JSON.")]
Few = Annotated[int | None, _option("Take so many, evenly spread; default: the first 16.", min=1)]
AsRanges = Annotated[
    Path | None,
    _option("Ranges whose data was read in the same way; default: these.", "RANGES", exists=True, dir_okay=False),
]


def sensitivity(
    model: Existing,
    ranges: RangesFile,
    data: Data,
    what: Annotated[
        Literal["both", "weights", "activations"], typer.Option(help="What of a layer is quantized.")
    ] = "both",
    metric: Annotated[Literal["sqnr", "kl", "mse"], typer.Option(help="At the outputs.")] = "sqnr",
    samples: Few = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: AsRanges = None,
    as_json: Json = False,
) -> None:
    """Quantize each layer of a float model alone, and tell which does the damage."""
    from edgekern.cli import damage

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    typer.echo(damage.sensitivity(model, ranges, data, what=what, metric=metric, given=given, as_json=as_json))


def compare(
    model: Existing,
    program: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Compiled from it (.ekm).")],
    data: Data,
    samples: Few = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
    as_json: Json = False,
) -> None:
    """Hold every layer of a program to its float model: errors that are seen there, and those that it makes."""
    from edgekern.cli import damage

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    typer.echo(damage.compare(model, program, data, given=given, as_json=as_json))


def coverage(
    model: Existing,
    ranges: RangesFile,
    data: Data,
    samples: Samples = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: AsRanges = None,
    as_json: Json = False,
) -> None:
    """Count what ranges leave out of other data, tensor by tensor."""
    from edgekern.cli import damage

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    typer.echo(damage.coverage(model, ranges, data, given=given, as_json=as_json))


def pictures(*given: Any) -> dict[str, Any]:
    return dict(zip(("preset", "size", "crop", "scale", "mean", "std", "channels", "layout"), given, strict=True))


def others(*given: Any) -> dict[str, Any]:
    names = ("kind", "batch", "limit", "max_unreadable", "rate", "tokenizer", "max_length", "preprocessing")
    return dict(zip(names, given, strict=True))


def few_options(*given: Any) -> DataOptions:
    names = ("kind", "limit", "preset", "size", "tokenizer", "max_length", "preprocessing")
    return DataOptions(**dict(zip(names, given, strict=True)))
