"""Commands from float model to float model, as typer has them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekern.cli.choices import GroupRecipe, GroupScales
from edgekern.cli.samples_app import Data, Existing, Few, How, Kind, MaxLength, Preset, Size, Tokenizer, few_options

Output = Annotated[Path, typer.Option("--output", "-o", help="Where the float model goes (ONNX).")]
Insert = Annotated[
    bool, typer.Option("--insert", help="Put a Mul before layers whose activation nobody can scale where it is made.")
]


def add_commands(app: typer.Typer, panel: str) -> None:
    for command in (equalize, smooth, awq, rotate, sparsify):
        app.command(rich_help_panel=panel)(command)


def equalize(
    model: Existing,
    output: Output,
    data: Annotated[list[Path] | None, typer.Argument(exists=True, help="Shows what channels hold; optional.")] = None,
    samples: Few = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Make channels of neighbouring layers alike, for one scale a layer; calibrate what is written."""
    from edgekern.cli import float_models

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    typer.echo(float_models.equalize(model, data or [], output, given=given))


def smooth(
    model: Existing,
    data: Data,
    output: Output,
    alpha: Annotated[
        str, typer.Option(metavar="X", help="How much moves, from 0 to 1; auto: what is best for each activation.")
    ] = "0.5",
    insert: Insert = False,
    samples: Few = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Move what is far out in activations into weights (SmoothQuant); calibrate what is written."""
    from edgekern.cli import float_models  # onnx and onnxruntime take a second to import

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    typer.echo(float_models.smooth(model, data, output, alpha=alpha, insert=insert, given=given))


def awq(
    model: Existing,
    data: Data,
    output: Output,
    recipe: Annotated[GroupRecipe, typer.Option(help="By which it will be quantized.")] = "w4a8-g32",
    group_scales: Annotated[GroupScales, typer.Option(help="With scales of groups chosen so.")] = "max",
    insert: Insert = False,
    samples: Few = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Move factors into weights of 4 bits, so that those round finely that much goes through (AWQ)."""
    from edgekern.cli import float_models

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    typer.echo(float_models.awq(model, data, output, recipe=recipe, scales=group_scales, insert=insert, given=given))


def rotate(
    model: Existing, output: Output, seed: Annotated[int, typer.Option(min=0, help="Of the signs that are drawn.")] = 0
) -> None:
    """Spread channels over all others by Hadamard matrices, wherever weights can hold them (QuaRot)."""
    from edgekern.cli import float_models

    typer.echo(float_models.rotate(model, output, seed=seed))


def sparsify(
    model: Existing,
    output: Output,
    data: Annotated[list[Path] | None, typer.Argument(exists=True, help="For wanda.")] = None,
    method: Annotated[
        Literal["magnitude", "wanda"], typer.Option(help="A weight's score: its magnitude; or times its input's norm.")
    ] = "magnitude",
    sparsity: Annotated[float | None, typer.Option(help="Share that becomes 0; default 0.5.")] = None,
    pattern: Annotated[str | None, typer.Option(metavar="N:M", help="Keep N of every M along the inputs.")] = None,
    keep: Annotated[list[str] | None, typer.Option(metavar="RULE", help="Layers that stay. Repeatable.")] = None,
    samples: Few = None,
    kind: Kind = None,
    preset: Preset = None,
    size: Size = None,
    tokenizer: Tokenizer = None,
    max_length: MaxLength = None,
    preprocessing: How = None,
) -> None:
    """Set the least important weights to 0, and count zeros by layer. Nothing gets faster; files compress better."""
    from edgekern.cli import float_models

    given = few_options(kind, samples, preset, size, tokenizer, max_length, preprocessing)
    done = float_models.sparsify(
        model, data or [], output, method=method, sparsity=sparsity, pattern=pattern, keep=keep or [], given=given
    )
    typer.echo(done)
