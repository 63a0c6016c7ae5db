"""The command that quantizes language models, as typer has it."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekern.llm.methods.rounding import Method

Model = Annotated[Path, typer.Argument(exists=True, help="GGUF file, llama2.c .bin, or Hugging Face folder")]


def add_commands(app: typer.Typer, panel: str) -> None:
    app.command("llm-quantize", rich_help_panel=panel)(llm_quantize)


def llm_quantize(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write, .ekllm by custom.")],
    weights: Annotated[Literal["int4", "int8", "int2"], typer.Option(help="What the weights become.")] = "int4",
    group_size: Annotated[int | None, typer.Option(help="Of int4 (default 32) and int2 (64): 32, 64, 128.")] = None,
    method: Annotated[
        Method, typer.Option(help="How they are rounded; all but nearest and hqq want --calibration.")
    ] = "nearest",
    rotate: Annotated[
        bool, typer.Option("--rotate", help="Turn what flows through the layers first, which no logit shows.")
    ] = False,
    calibration: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Text like what the model is to read.")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Cuts the text, e.g. '<|endoftext|>'.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="So much of the text.")] = 16384,
    tokenizer: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="tokenizer.json or tokenizer.bin; default: the model's."),
    ] = None,
) -> None:
    """Quantize a language model and save it packed; generate and perplexity use its weights where they are mapped."""
    from edgekern.cli import text

    typer.echo(
        text.llm_quantize(
            model,
            output,
            weights=weights,
            group_size=group_size,
            method=method,
            rotate=rotate,
            calibration=calibration,
            separator=separator,
            max_tokens=max_tokens,
            tokenizer=tokenizer,
        )
    )
