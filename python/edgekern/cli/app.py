"""The whole command line, drawn by typer: one group that works on models, one that works on compiled programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from edgekern import _core
from edgekern.cli import bench as benchmarks
from edgekern.cli import float_models_app, gates_app, llm_app, plans_app, samples_app, session
from edgekern.cli.choices import Granularity, GroupScales, ModelRecipe, Recipe, Rounding
from edgekern.cli.sources import DataOptions
from edgekern.file_kinds import kind_of_file
from edgekern.runtime import HOST_TIMEOUT_S

app = typer.Typer(
    help="Quantize a float model to INT8, see which layers it hurts, compile it to one file, and run it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

MAKE, USE, TEXT = "From a float model to a program", "Programs and this machine", "Language models"

Existing = Annotated[Path, typer.Argument(exists=True, dir_okay=False)]
Mode = Annotated[str | None, typer.Option(help="The precision, of a program that has several; default: the first.")]
AllowHost = Annotated[bool, typer.Option(help="Let onnxruntime run operators without a kernel.")]
Shape = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=SIZES",
        help="Sizes of free dimensions: input_ids=1,128 of an input (? leaves one), sequence=128 by name; several: "
        "16|128. Repeatable.",
    ),
]
_READ = ".npz, .npy, .bin, .wav, text, or a folder of such files or of pictures"
Data = Annotated[list[Path], typer.Argument(exists=True, help=_READ)]
SomeData = Annotated[list[Path] | None, typer.Argument(exists=True, help=f"{_READ}; default: random numbers")]


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"edgekern {_core.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=MAKE)
def quickstart(
    save: Annotated[Path | None, typer.Option(help="Keep the compiled digits model here.")] = None,
) -> None:
    """Do the whole job on an embedded digit classifier and report accuracy, size, latency and SQNR per layer."""
    from edgekern.cli import toolkit  # onnx and onnxruntime take a second to import

    typer.echo(toolkit.quickstart(save))


samples_app.add_commands(app, MAKE)
float_models_app.add_commands(app, MAKE)


@app.command(rich_help_panel=MAKE)
def quantize(
    model: Existing,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the QDQ model goes (ONNX).")],
    ranges: Annotated[
        Path | None,
        typer.Argument(
            exists=True, dir_okay=False, help="Of edgekern calibrate; w8a8-dynamic, w4a... and float32 need none."
        ),
    ] = None,
    recipe: Annotated[
        ModelRecipe,
        typer.Option(
            help="Of nodes that no override names. w8a8-dynamic, w4a8-g... scale rows as they come, without ranges; "
            "auto where ranges say that w8a8 loses too much; mixed, performance, accuracy go by what a layer is."
        ),
    ] = "auto",
    activations: Annotated[Literal["u8", "s8"], typer.Option(help="Asymmetric uint8 or symmetric int8.")] = "u8",
    group_scales: Annotated[
        GroupScales,
        typer.Option(help="Of 4-bit weights by groups: leave none out, least squares, or half-quadratic splitting."),
    ] = "max",
    granularity: Annotated[
        Granularity, typer.Option(help="Weights: a scale an output channel, or one a layer.")
    ] = "channel",
    rounding: Annotated[
        Rounding, typer.Option(help="Of weights. gptq and adaround look at samples: --data or --checkpoint.")
    ] = "filter_sum",
    data: Annotated[
        list[Path] | None, typer.Option(exists=True, metavar="DATA", help=f"Samples: {_READ}. Repeatable.")
    ] = None,
    checkpoint: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Samples: those that such a file of calibrate has.")
    ] = None,
    override: Annotated[
        list[str] | None,
        typer.Option(
            metavar="RULE=RECIPE",
            help="A recipe for the nodes of an operator's type or a pattern of names. Repeatable.",
        ),
    ] = None,
    keep_float: Annotated[
        list[str] | None, typer.Option(metavar="RULE", help="Nodes that stay float32. Repeatable.")
    ] = None,
    first: Annotated[
        Recipe | None, typer.Option(help="A recipe for the first layer with weights, where no rule names it.")
    ] = None,
    last: Annotated[Recipe | None, typer.Option(help="The same for the last layer.")] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE or NAME=TYPE", help="uint8 or int8: callers give codes. Of one input: repeatable."),
    ] = None,
    outputs: Annotated[
        list[str] | None, typer.Option(metavar="TYPE or NAME=TYPE", help="The same of what callers take.")
    ] = None,
    shape: Shape = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print the recipe of every product, and why.")] = False,
    apply: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Follow a plan file, as of edgekern search."),
    ] = None,
    kind: samples_app.Kind = None,
    samples: samples_app.Samples = None,
    preset: samples_app.Preset = None,
    size: samples_app.Size = None,
    tokenizer: samples_app.Tokenizer = None,
    preprocessing: samples_app.How = None,
) -> None:
    """Write a float model and its ranges as a standard QDQ ONNX model."""
    from edgekern.cli import toolkit

    given = DataOptions(
        kind=kind, limit=samples, preset=preset, size=size, tokenizer=tokenizer, preprocessing=preprocessing
    )

    rules = toolkit.Rules(override or [], keep_float or [], inputs or [], outputs or [], first, last)
    done = toolkit.quantize(
        model,
        ranges,
        output,
        recipe=recipe,
        activations=activations,
        granularity=granularity,
        group_scales=group_scales,
        rounding=rounding,
        seen=toolkit.Seen(data or [], given, checkpoint),
        rules=rules,
        shapes=shape,
        plan=plan,
        apply=apply,
    )
    typer.echo(done)


@app.command("compile", rich_help_panel=MAKE)
def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the program goes (.ekm).")],
    model: Annotated[Path | None, typer.Argument(exists=True, dir_okay=False)] = None,
    mode: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=MODEL",
            help="Instead of MODEL: a precision of it, .onnx or .ekm. Twice or more; a session switches between them.",
        ),
    ] = None,
    batch: Annotated[str, typer.Option(metavar="SIZES", help="Rows of a run; several as 1,2,4,8.")] = "1",
    shape: Shape = None,
    pad: Annotated[
        list[str] | None, typer.Option(metavar="NAME=NUMBER", help="What fills up an input; else 0. Repeatable.")
    ] = None,
    allow_host: AllowHost = True,
) -> None:
    """Compile a QDQ ONNX model, ours or another tool's, to one file."""
    from edgekern.cli import toolkit

    typer.echo(toolkit.compile(model, output, modes=mode, batch=batch, shapes=shape, pads=pad, allow_host=allow_host))


gates_app.add_commands(app, MAKE)
plans_app.add_commands(app, MAKE)


@app.command(rich_help_panel=USE)
def run(
    model: Existing,
    data: Data,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Write the outputs to this .npz; of several files as FILE/OUTPUT."),
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all CPUs this process may use.")] = None,
    isa: Annotated[str | None, typer.Option(help="Force an instruction set; see 'edgekern info'.")] = None,
    allow_host: AllowHost = True,
    host_timeout: Annotated[float, typer.Option(help="Seconds that a host step may take.")] = HOST_TIMEOUT_S,
    mode: Mode = None,
    kind: samples_app.Kind = None,
    samples: samples_app.Samples = None,
    preset: samples_app.Preset = None,
    size: samples_app.Size = None,
    tokenizer: samples_app.Tokenizer = None,
    preprocessing: samples_app.How = None,
) -> None:
    """Run a program on data, as many rows at a time as it was compiled for."""
    result = session.run(
        model,
        data,
        output=output,
        num_threads=threads,
        isa=isa,
        allow_host=allow_host,
        host_timeout_s=host_timeout,
        mode=mode,
        given=DataOptions(
            kind=kind, limit=samples, preset=preset, size=size, tokenizer=tokenizer, preprocessing=preprocessing
        ),
    )
    typer.echo(result)


@app.command(rich_help_panel=USE)
def profile(
    model: Existing,
    data: SomeData = None,
    runs: Annotated[int, typer.Option(min=1, help="Runs that are timed.")] = 100,
    top: Annotated[int, typer.Option(min=1, help="Steps that are shown.")] = 20,
    trace: Annotated[Path | None, typer.Option(help="Write a trace for Perfetto and Chrome here.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Try every way in which steps can run, and write the fastest here (JSON).")
    ] = None,
    paths: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Run steps as such a file says.")
    ] = None,
    mode: Mode = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all CPUs this process may use.")] = None,
    isa: Annotated[str | None, typer.Option(help="Force an instruction set; see 'edgekern info'.")] = None,
    allow_host: AllowHost = True,
    kind: samples_app.Kind = None,
    preset: samples_app.Preset = None,
    size: samples_app.Size = None,
    tokenizer: samples_app.Tokenizer = None,
    preprocessing: samples_app.How = None,
) -> None:
    """Time every step of a program, beside what this machine can do, and say what the time goes to."""
    result = session.profile(
        model,
        data or [],
        runs=runs,
        top=top,
        trace=trace,
        num_threads=threads,
        isa=isa,
        allow_host=allow_host,
        as_json=as_json,
        save=save,
        paths=paths,
        mode=mode,
        given=DataOptions(kind=kind, preset=preset, size=size, tokenizer=tokenizer, preprocessing=preprocessing),
    )
    typer.echo(result)


@app.command(rich_help_panel=USE)
def bench(
    model: Annotated[
        Path, typer.Argument(exists=True, help=".ekm, .onnx, GGUF file, llama2.c .bin, or Hugging Face folder")
    ],
    data: SomeData = None,
    vs: Annotated[
        Path | None, typer.Option("--vs", exists=True, dir_okay=False, help="The float ONNX model, to stand beside it.")
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option(min=1, help="Default: all CPUs this process may use. Repeatable.")
    ] = None,
    batch: Annotated[
        str, typer.Option(metavar="SIZES", help="Of an ONNX model: rows of a run; several as 1,2,4,8, a line each.")
    ] = "1",
    shape: Shape = None,
    runs: Annotated[int | None, typer.Option(min=1, help="Runs of each contender that are timed.")] = None,
    seconds: Annotated[float | None, typer.Option(help="Seconds of each contender instead; default 1.")] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(help="Of a language model: int8, int4, int2 or float32; default int8. Repeatable."),
    ] = None,
    mode: Mode = None,
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False,
    isa: Annotated[str | None, typer.Option(help="Force an instruction set; see 'edgekern info'.")] = None,
    allow_host: AllowHost = True,
    kind: samples_app.Kind = None,
    preset: samples_app.Preset = None,
    size: samples_app.Size = None,
    tokenizer: samples_app.Tokenizer = None,
    preprocessing: samples_app.How = None,
) -> None:
    """Time a model on this machine beside onnxruntime and its float model, outputs compared first."""
    result = benchmarks.bench(
        model,
        data or [],
        versus=vs,
        threads=threads or [],
        batch=batch,
        shapes=shape,
        runs=runs,
        seconds=seconds,
        weights=weights or [],
        isa=isa,
        allow_host=allow_host,
        as_json=as_json,
        mode=mode,
        given=DataOptions(kind=kind, preset=preset, size=size, tokenizer=tokenizer, preprocessing=preprocessing),
    )
    typer.echo(result)


@app.command(rich_help_panel=USE)
def stress(
    model: Existing,
    concurrency: Annotated[int, typer.Option(min=1, help="Callers.")] = 100,
    runs: Annotated[int, typer.Option(min=1, help="Of each caller.")] = 1000,
    arenas: Annotated[int, typer.Option(min=1, help="How many run at a time.")] = 2,
    threads: Annotated[int, typer.Option(min=1, help="Of each run.")] = 1,
    budget: Annotated[
        str, typer.Option(metavar="SHARE or SIZE", help="Memory: 60% of what this process can have, or 512M, 2GiB.")
    ] = "60%",
    as_json: Annotated[bool, typer.Option("--json", help="All figures, as JSON.")] = False,
    isa: Annotated[str | None, typer.Option(help="Force an instruction set; see 'edgekern info'.")] = None,
    allow_host: AllowHost = True,
) -> None:
    """Let many callers run a program for long: waits, memory, and whether answers and speed stay as they were.

    Ends with status 1 when outputs change, memory grows, or the budget is passed.
    """
    told, well = session.stress(
        model,
        concurrency=concurrency,
        runs=runs,
        arenas=arenas,
        budget=budget,
        num_threads=threads,
        isa=isa,
        allow_host=allow_host,
        as_json=as_json,
    )
    typer.echo(told)
    if not well:
        raise typer.Exit(1)


@app.command(rich_help_panel=USE)
def verify(model: Existing, allow_host: AllowHost = True) -> None:
    """Check every byte of a program against its hashes, and name the steps that onnxruntime would run."""
    typer.echo(session.verify(model, allow_host=allow_host))


@app.command(rich_help_panel=USE)
def inspect(
    model: Existing,
    batch: Annotated[
        str, typer.Option(metavar="SIZES", help="Of an ONNX model: rows of a run; several as 1,2,4,8.")
    ] = "1",
    shape: Shape = None,
    as_json: Annotated[bool, typer.Option("--json", help="Nodes, their prices, and steps, as JSON.")] = False,
    kinds: Annotated[
        bool, typer.Option("--kinds", help="Of a program: its kinds of steps alone, for a small build.")
    ] = False,
) -> None:
    """Show the inputs, outputs and steps of a program, or what would become of an ONNX model."""
    if kinds:
        typer.echo(session.kinds(model))
    elif kind_of_file(model) == "onnx":
        from edgekern.cli import toolkit

        typer.echo(toolkit.inspect(model, batch=batch, shapes=shape, as_json=as_json))
    else:
        typer.echo(session.inspect(model, as_json=as_json))


@app.command(rich_help_panel=USE)
def info() -> None:
    """Show what edgekern sees of this machine."""
    typer.echo(session.info())


llm_app.add_commands(app, TEXT)
