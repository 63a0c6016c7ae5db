"""validate and compress, as typer has them: they end with status 1 where a gate fails."""

from pathlib import Path
from typing import Annotated

import typer

from edgekern.calibration import AnyMethod
from edgekern.cli.samples_app import (
    Channels,
    Crop,
    Data,
    Existing,
    How,
    Json,
    Kind,
    Layout,
    MaxLength,
    MaxUnreadable,
    Mean,
    Preset,
    Rate,
    Samples,
    Scale,
    Shape,
    Size,
    Std,
    Tokenizer,
    others,
    pictures,
)
from edgekern.cli.sources import DataOptions

_GATES = "Gates"


def _gate(text: str, metavar: str) -> object:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_GATES)


Labels = Annotated[
    Path | None,
    typer.Option(
        help="CSV with the columns file and label; .npy of class numbers; or the word folders: the folder of a file is "
        "its class."
    ),
]
LabelOffset = Annotated[int, typer.Option(help="Added to labels; 1 where class 0 is the background.")]
MaxDrop = Annotated[float | None, _gate("Share of right answers that may be lost: 0.01 is one point.", "SHARE")]
MinSqnr = Annotated[float | None, _gate("Of the worst output against float.", "DB")]
MinAgreement = Annotated[float | None, _gate("Share in which both have the same highest score.", "SHARE")]
MaxBytes = Annotated[str | None, _gate("Of the file, as 4M or 4MB.", "SIZE")]
MaxMemory = Annotated[str | None, _gate("Of a session, weights among them.", "SIZE")]
MaxLatency = Annotated[str | None, _gate("p50 of a run here, as 5ms or 250us.", "TIME")]
Top = Annotated[int, typer.Option(min=1, help="A sample is right where its label is among so many highest scores.")]
Output = Annotated[str | None, typer.Option("--scores", help="Name of the scores; default: the first output.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all CPUs this process may use.")]


def add_commands(app: typer.Typer, panel: str) -> None:
    app.command("validate", rich_help_panel=panel)(validate)
    app.command("compress", rich_help_panel=panel)(compress)


def validate(
    model: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The program (.ekm).")],
    data: Annotated[
        list[Path] | None, typer.Argument(exists=True, help="Samples, as calibrate takes them; sizes need none.")
    ] = None,
    float_model: Annotated[
        Path | None,
        typer.Option("--float", "--vs", exists=True, dir_okay=False, help="The model before quantization (ONNX)."),
    ] = None,
    labels: Labels = None,
    label_offset: LabelOffset = 0,
    max_drop: MaxDrop = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    max_bytes: MaxBytes = None,
    max_memory: MaxMemory = None,
    max_latency: MaxLatency = None,
    checklist: Annotated[
        bool, typer.Option("--checklist", help="Go through the list of checks of docs/validate.md instead.")
    ] = False,
    ranges: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Of edgekern calibrate: for --checklist, and how data is read."),
    ] = None,
    top: Top = 1,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Runs that are timed: 100; of --checklist: 1000.", show_default=False)
    ] = None,
    scores: Output = None,
    threads: Threads = None,
    as_json: Json = False,
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
    """Hold a program to gates: what it loses, how large and how slow it may be.

    Ends with status 1 when a gate fails.
    """
    from edgekern.analysis import Limits
    from edgekern.cli import gates as commands

    given = DataOptions(
        labels=labels,
        label_offset=label_offset,
        **pictures(preset, size, crop, scale, mean, std, channels, layout),
        **others(kind, batch, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
    )
    latency = commands.read_latency("validate", max_latency)
    told, well = commands.validate(
        model,
        data or [],
        float_model=float_model,
        limits=Limits(max_drop, min_sqnr, min_agreement, max_bytes, max_memory, latency),
        checklist=checklist,
        ranges=ranges,
        given=given,
        top=top,
        runs=runs,
        output=scores,
        num_threads=threads,
        as_json=as_json,
    )
    typer.echo(told)
    if not well:
        raise typer.Exit(1)


def compress(
    model: Existing,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the program goes (.ekm).")],
    held_out: Annotated[
        list[Path] | None,
        typer.Option(exists=True, help="Samples that do not calibrate: what is lost is measured on them. Repeatable."),
    ] = None,
    labels: Labels = None,
    label_offset: LabelOffset = 0,
    max_drop: MaxDrop = None,
    min_sqnr: MinSqnr = None,
    min_agreement: MinAgreement = None,
    max_bytes: MaxBytes = None,
    max_memory: MaxMemory = None,
    max_latency: MaxLatency = None,
    recipe: Annotated[str | None, typer.Option(help="As of edgekern quantize; default: its default.")] = None,
    method: Annotated[
        AnyMethod | None, typer.Option(help="How ranges are chosen; default: all are tried, by the outputs.")
    ] = None,
    batch: Annotated[int, typer.Option(min=1, help="Rows of a run.")] = 1,
    shape: Shape = None,
    report: Annotated[Path | None, typer.Option(help="Write all figures here (JSON), failed or not.")] = None,
    top: Top = 1,
    runs: Annotated[int, typer.Option(min=0, help="Runs that are timed; 0: none, unless a gate asks.")] = 0,
    scores: Output = None,
    threads: Threads = None,
    allow_host: Annotated[bool, typer.Option(help="Let onnxruntime run operators without a kernel.")] = True,
    as_json: Json = False,
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
    """From a float ONNX model to a program at once: calibrate, quantize, compile, compare.

    Ends with status 1, and writes no program, when a gate fails.
    """
    from edgekern.analysis import Limits
    from edgekern.cli import gates as commands

    given = DataOptions(
        labels=labels,
        label_offset=label_offset,
        **pictures(preset, size, crop, scale, mean, std, channels, layout),
        **others(kind, None, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
    )
    latency = commands.read_latency("compress", max_latency)
    told, well = commands.compress(
        model,
        data,
        output,
        held_out=held_out or [],
        limits=Limits(max_drop, min_sqnr, min_agreement, max_bytes, max_memory, latency),
        given=given,
        recipe=recipe,
        method=method,
        batch=batch,
        shapes=shape,
        report=report,
        top=top,
        runs=runs,
        scores=scores,
        num_threads=threads,
        allow_host=allow_host,
        as_json=as_json,
    )
    typer.echo(told)
    if not well:
        raise typer.Exit(1)
