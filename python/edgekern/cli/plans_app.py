"""search and quantize-to, as typer has them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekern.cli.choices import Recipe
from edgekern.cli.gates_app import LabelOffset, Labels, Threads
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

_BUDGET = "Budget: one of these"
RangesFile = Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="Of edgekern calibrate.")]


def _budget(text: str, metavar: str) -> object:
    return typer.Option(help=text, metavar=metavar, rich_help_panel=_BUDGET)


def add_commands(app: typer.Typer, panel: str) -> None:
    app.command("search", rich_help_panel=panel)(search)
    app.command("quantize-to", rich_help_panel=panel)(quantize_to)


def search(
    model: Existing,
    ranges: RangesFile,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the plan goes (JSON).")],
    max_ms: Annotated[str | None, _budget("Of a run on this machine, measured: 3.2, 250us.", "TIME")] = None,
    max_bytes: Annotated[str | None, _budget("Of all weights with their scales, as 4M or 4MB.", "SIZE")] = None,
    max_bits: Annotated[float | None, _budget("Mean bits of a weight.", "BITS")] = None,
    max_share: Annotated[float | None, _budget("Of layers that multiply more than 8 bits: 0.2.", "SHARE")] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RECIPE",
            help="That layers may have, repeatable; default: w8a8 and float32, beside w8a16 and w8a8-dynamic, or of "
            "bytes and bits w4a8 and w4a8-g32.",
        ),
    ] = None,
    method: Annotated[
        Literal["ilp", "greedy"], typer.Option(help="The best plan, by scipy; or the best gain for its cost, by steps.")
    ] = "ilp",
    shape: Shape = None,
    threads: Threads = None,
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
    """Give each layer the recipe with which the model loses least under one budget, and write that plan."""
    from edgekern.cli import plans as commands

    told = commands.search(
        model,
        ranges,
        data,
        output,
        max_ms=max_ms,
        max_bytes=max_bytes,
        max_bits=max_bits,
        max_share=max_share,
        candidates=candidate or (),
        method=method,
        given=DataOptions(
            **pictures(preset, size, crop, scale, mean, std, channels, layout),
            **others(kind, None, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
        ),
        shapes=shape,
        num_threads=threads,
        as_json=as_json,
    )
    typer.echo(told)


def quantize_to(
    model: Existing,
    ranges: RangesFile,
    data: Data,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the QDQ model goes (ONNX).")],
    max_drop: Annotated[
        float, typer.Option(metavar="SHARE", help="Share of right answers that may be lost: 0.01 is one point.")
    ],
    labels: Labels = None,
    label_offset: LabelOffset = 0,
    recipe: Annotated[Recipe, typer.Option(help="Of all layers at first.")] = "w8a8",
    undo: Annotated[Literal["float32", "w8a16"], typer.Option(help="Of those that lose most then.")] = "float32",
    plan: Annotated[Path | None, typer.Option(help="Write the plan here (JSON), too.")] = None,
    put_back: Annotated[int, typer.Option(min=0, help="Layers that are tried to be put back at most.")] = 16,
    shape: Shape = None,
    threads: Threads = None,
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
    """Quantize all layers, and undo the worst ones until the model loses no more than it may.

    Ends with status 1, and writes no model, when it loses more all the same.
    """
    from edgekern.cli import plans as commands

    told, well = commands.quantize_to(
        model,
        ranges,
        data,
        output,
        max_drop=max_drop,
        recipe=recipe,
        undo=undo,
        plan=plan,
        most_put_back=put_back,
        given=DataOptions(
            labels=labels,
            label_offset=label_offset,
            **pictures(preset, size, crop, scale, mean, std, channels, layout),
            **others(kind, None, samples, max_unreadable, rate, tokenizer, max_length, preprocessing),
        ),
        shapes=shape,
        num_threads=threads,
        as_json=as_json,
    )
    typer.echo(told)
    if not well:
        raise typer.Exit(1)
