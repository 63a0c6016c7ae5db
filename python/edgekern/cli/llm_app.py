"""Commands on language models, as typer has them."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekern.llm.methods.rounding import Method

Existing = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
Model = Annotated[Path, typer.Argument(exists=True, help="GGUF file, llama2.c .bin, Hugging Face folder, or .ekllm")]
TokenizerFile = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="tokenizer.json or tokenizer.bin; default: the model's."),
]
Threads = Annotated[int | None, typer.Option(min=1, help="Default: all CPUs this process may use.")]
Window = Annotated[
    int | None, typer.Option(min=1, help="Tokens that a token sees; default: the model's, at most 4096.")
]


def add_commands(app: typer.Typer, panel: str) -> None:
    app.command(rich_help_panel=panel)(generate)
    app.command(rich_help_panel=panel)(perplexity)
    app.command("llm-quantize", rich_help_panel=panel)(llm_quantize)
    app.command(rich_help_panel=panel)(plan)


def plan(
    model: Annotated[
        Path | None,
        typer.Argument(exists=True, help="Decoder (.ekllm, GGUF, .bin, folder) or program (.ekm); without: shapes."),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Of a decoder, without MODEL.")] = None,
    heads: Annotated[int | None, typer.Option(help="Query heads.")] = None,
    kv_heads: Annotated[int | None, typer.Option(help="Default: as many as heads.")] = None,
    head_dim: Annotated[int | None, typer.Option(help="Default: dim / heads.")] = None,
    hidden: Annotated[int | None, typer.Option(help="Width of the feed-forward layer.")] = None,
    dim: Annotated[int | None, typer.Option(help="Width of the residual stream.")] = None,
    vocab: Annotated[int | None, typer.Option(help="Tokens of the vocabulary.")] = None,
    context: Annotated[
        int | None, typer.Option(help="Tokens that a token sees; default: the model's, at most 4096.")
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Sequences side by side; default 1.")] = None,
    weights: Annotated[str | None, typer.Option(help="int8, int4, int2 or float32.")] = None,
    group_size: Annotated[int | None, typer.Option(help="Of int4 (default 32) and int2 (64): 32, 64, 128.")] = None,
    kv: Annotated[str | None, typer.Option(help="Storage of the cache: int8, k8v4, int4, float16, ...")] = None,
    max_chunk: Annotated[int | None, typer.Option(help="Most tokens of one pass; default 256.")] = None,
    arenas: Annotated[int | None, typer.Option(help="Callers of a program that run at a time; default 1.")] = None,
    threads: Annotated[int | None, typer.Option(help="Of a program.")] = None,
    isa: Annotated[str | None, typer.Option(help="Of a program: plan for this instruction set.")] = None,
    device: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE", help="The device's memory: bytes, 8G (1024s), 8GB (1000s); default: this machine's."
        ),
    ] = None,
    reserved: Annotated[str, typer.Option(metavar="SIZE", help="What the system and others take of it.")] = "0",
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False,
) -> None:
    """Say what a model takes of a device's memory, and what to change where it does not fit."""
    from edgekern.cli import memory

    told, fits = memory.plan(
        model,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        hidden=hidden,
        dim=dim,
        vocab=vocab,
        context=context,
        batch=batch,
        weights=weights,
        group_size=group_size,
        kv=kv,
        max_chunk=max_chunk,
        arenas=arenas,
        num_threads=threads,
        isa=isa,
        device_bytes=device,
        reserved_bytes=reserved,
        as_json=as_json,
    )
    typer.echo(told)
    if not fits:
        raise typer.Exit(1)


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


def generate(
    model: Model,
    prompt: Annotated[str, typer.Option(help="The text to continue.")],
    tokenizer: TokenizerFile = None,
    weights: Annotated[
        Literal["int8", "int4", "int2", "float32"] | None,
        typer.Option(help="How weights are kept; default: int8, or as they are."),
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="Of int4 (default 32) and int2 (64): 32, 64, 128.")] = None,
    kv: Annotated[str, typer.Option(help="Storage of the cache: int8, k8v4, int4, float16, float32, ...")] = "int8",
    window: Window = None,
    max_new_tokens: Annotated[int, typer.Option(min=0)] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Draw among so many; 0 is all.")] = 0,
    top_p: Annotated[float, typer.Option(min=0, max=1, help="Draw among the likeliest that reach it.")] = 1.0,
    seed: Annotated[int, typer.Option(help="The same seed gives the same text on every machine.")] = 0,
    threads: Threads = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="What all of it may take: bytes, 512M or 1GiB (1024s), 300MB (1000s)."),
    ] = None,
) -> None:
    """Continue a text, token by token."""
    from edgekern.cli import text

    figures = text.generate(
        model,
        prompt,
        tokenizer=tokenizer,
        weights=weights,
        group_size=group_size,
        kv=kv,
        window=window,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        seed=seed,
        num_threads=threads,
        memory_budget=memory_budget,
    )
    typer.echo(figures)


def perplexity(
    model: Model,
    text: Existing,
    tokenizer: TokenizerFile = None,
    weights: Annotated[list[str] | None, typer.Option(help="int8, int4, int2 or float32; repeat for more.")] = None,
    kv: Annotated[list[str] | None, typer.Option(help="Storage of the cache; repeat for more.")] = None,
    reference: Annotated[
        Path | None, typer.Option(exists=True, help="The float model that a .ekllm file is compared with.")
    ] = None,
    window: Window = None,
    sinks: Annotated[int | None, typer.Option(min=0, help="First tokens that stay visible; default 4.")] = None,
    separator: Annotated[str | None, typer.Option(help="Cuts the file into texts, e.g. '<|endoftext|>'.")] = None,
    texts: Annotated[int | None, typer.Option(min=1, help="Only so many texts.")] = None,
    tokens: Annotated[int | None, typer.Option(min=2, help="Only so many tokens of each.")] = None,
    threads: Threads = None,
) -> None:
    """Compare storage formats: perplexity, KL divergence and same likeliest token against float32."""
    from edgekern.cli import text as commands

    table = commands.perplexity(
        model,
        text,
        tokenizer=tokenizer,
        weights=weights or [],
        kv=kv or ["int8"],
        reference=reference,
        window=window,
        sinks=sinks,
        separator=separator,
        texts=texts,
        tokens=tokens,
        num_threads=threads,
    )
    typer.echo(table)
