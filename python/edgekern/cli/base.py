"""The commands of the base install, parsed with the standard library where typer is absent."""

import argparse
from pathlib import Path

from edgekern import _core
from edgekern._extras import install
from edgekern.cli import bench, session
from edgekern.file_kinds import kind_of_file
from edgekern.runtime import HOST_TIMEOUT_S

COMMANDS = ("run", "verify", "inspect", "profile", "bench", "stress", "generate", "perplexity", "plan", "info")
_PLANNED = (
    *("layers", "heads", "kv_heads", "head_dim", "hidden", "dim", "vocab"),
    *("context", "batch", "group_size", "max_chunk", "arenas"),
)
_DATA = ".npz, .npy, or a folder of them"


def knows(arguments: list[str]) -> bool:
    """Whether this command line can be served without the toolkit extra (asking for help can, too)."""
    return not arguments or arguments[0] in (*COMMANDS, "-h", "--help", "--version")


def run(arguments: list[str]) -> int:
    try:
        given = _parser().parse_args(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 2
    return int(given.call(given))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="edgekern",
        description="Run and check compiled models.",
        epilog=f"More commands (calibrate, quantize, compile, evaluate, validate, ...): {install('toolkit')}",
    )
    parser.add_argument("--version", action="version", version=f"edgekern {_core.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name: str, help: str, call: object, data: str | None = None) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=help, description=help)
        made.set_defaults(call=call)
        if name != "info":
            made.add_argument("model", type=Path, nargs="?" if name == "plan" else None)
        if data is not None:
            told = _DATA if data == "+" else f"{_DATA}; default: random numbers"
            made.add_argument("data", type=Path, nargs=data, help=told)
        return made

    def options_of_sessions(made: argparse.ArgumentParser) -> None:
        made.add_argument("--isa", help="force an instruction set; see edgekern info")
        made.add_argument("--allow-host", action=argparse.BooleanOptionalAction, default=True)

    runs = command("run", "run an .ekm on arrays", _run, "+")
    runs.add_argument(
        "-o", "--output", type=Path, help="write the outputs to this .npz; of several files as FILE/OUTPUT"
    )
    runs.add_argument("--threads", type=int)
    runs.add_argument("--host-timeout", type=float, default=HOST_TIMEOUT_S, help="seconds that a host step may take")
    verifies = command("verify", "check every byte of an .ekm, and name its host steps", _verify)
    verifies.add_argument("--allow-host", action=argparse.BooleanOptionalAction, default=True)
    inspects = command("inspect", "show the inputs, outputs and steps of an .ekm", _inspect)
    inspects.add_argument("--json", action="store_true", help="steps as JSON")
    inspects.add_argument("--kinds", action="store_true", help="its kinds of steps alone, for a small build")
    profiles = command("profile", "time every step of an .ekm", _profile, "*")
    profiles.add_argument("--runs", type=int, default=100)
    profiles.add_argument("--top", type=int, default=20, help="steps that are shown")
    profiles.add_argument("--trace", type=Path, help="write a trace for Perfetto and Chrome here")
    profiles.add_argument("--save", type=Path, help="try every way to run steps, and write the fastest here")
    profiles.add_argument("--paths", type=Path, help="run steps as such a file says")
    profiles.add_argument("--json", action="store_true", help="all figures, as JSON")
    profiles.add_argument("--threads", type=int)
    benches = command("bench", "time an .ekm", _bench, "*")
    benches.add_argument("--threads", type=int, action="append", default=[])
    benches.add_argument("--runs", type=int)
    benches.add_argument("--seconds", type=float)
    benches.add_argument("--json", action="store_true", help="all figures, as JSON")
    stresses = command("stress", "let many callers run an .ekm for long", _stress)
    stresses.add_argument("--concurrency", type=int, default=100, help="callers")
    stresses.add_argument("--runs", type=int, default=1000, help="of each caller")
    stresses.add_argument("--arenas", type=int, default=2, help="how many run at a time")
    stresses.add_argument("--threads", type=int, default=1, help="of each run")
    stresses.add_argument("--budget", default="60%", help="memory: a share of what this process can have, or a size")
    stresses.add_argument("--json", action="store_true", help="all figures, as JSON")
    for made in (runs, profiles, benches, stresses):
        options_of_sessions(made)
    for made in (runs, profiles, benches):
        made.add_argument("--mode", help="the precision, of a program that has several; default: the first")
    _add_text(
        command("generate", "continue a text, token by token", _generate),
        command("perplexity", "compare storage formats against float32", _perplexity),
    )
    _add_plan(command("plan", "what a model takes of a device's memory", _plan))
    command("info", "what edgekern sees of this machine", _info)
    return parser


def _add_text(generates: argparse.ArgumentParser, compares: argparse.ArgumentParser) -> None:
    """Options of the commands on language models."""
    generates.add_argument("--prompt", required=True, help="the text to continue")
    generates.add_argument(
        "--weights", choices=("int8", "int4", "int2", "float32"), help="default: int8, or as they are"
    )
    generates.add_argument("--group-size", type=int, help="of int4 weights, default 32, and of int2, 64: 32, 64 or 128")
    generates.add_argument("--kv", default="int8", help="storage of the cache")
    generates.add_argument("--max-new-tokens", type=int, default=128)
    generates.add_argument("--temperature", type=float, default=0.0, help="0 takes the likeliest token")
    generates.add_argument("--top-k", type=int, default=0, help="draw among so many; 0 is all")
    generates.add_argument("--top-p", type=float, default=1.0, help="draw among the likeliest that reach it")
    generates.add_argument("--seed", type=int, default=0, help="the same seed gives the same text on every machine")
    generates.add_argument("--memory-budget", metavar="SIZE", help="bytes, 512M or 1GiB (1024s), 300MB (1000s)")
    compares.add_argument("text", type=Path)
    compares.add_argument("--weights", action="append", help="int8, int4, int2 or float32; repeat for more")
    compares.add_argument("--reference", type=Path, help="the float model that a .ekllm file is compared with")
    compares.add_argument("--kv", action="append", help="storage of the cache; repeat for more")
    compares.add_argument("--sinks", type=int, help="first tokens that stay visible; default 4")
    compares.add_argument("--separator", help="cuts the file into texts, e.g. '<|endoftext|>'")
    compares.add_argument("--texts", type=int, help="only so many texts")
    compares.add_argument("--tokens", type=int, help="only so many tokens of each")
    for made in (generates, compares):
        made.add_argument("--tokenizer", type=Path, help="tokenizer.json or tokenizer.bin; default: the model's")
        made.add_argument("--window", type=int, help="tokens that a token sees; default: the model's, at most 4096")
        made.add_argument("--threads", type=int)


def _add_plan(plans: argparse.ArgumentParser) -> None:
    for name in _PLANNED:
        plans.add_argument(f"--{name.replace('_', '-')}", type=int)
    for name in ("weights", "kv", "isa"):
        plans.add_argument(f"--{name}")
    plans.add_argument("--threads", type=int, help="of a program")
    plans.add_argument("--device", metavar="SIZE", help="bytes, 8G (1024s), 8GB (1000s); default: this machine's")
    plans.add_argument("--reserved", metavar="SIZE", default="0", help="what the system and others take of it")
    plans.add_argument("--json", action="store_true", help="all figures, as JSON")


def _run(given: argparse.Namespace) -> int:
    result = session.run(
        given.model,
        given.data,
        output=given.output,
        num_threads=given.threads,
        isa=given.isa,
        allow_host=given.allow_host,
        host_timeout_s=given.host_timeout,
        mode=given.mode,
    )
    print(result)
    return 0


def _verify(given: argparse.Namespace) -> int:
    print(session.verify(given.model, allow_host=given.allow_host))
    return 0


def _inspect(given: argparse.Namespace) -> int:
    if kind_of_file(given.model) == "onnx" and not given.kinds:
        raise ModuleNotFoundError(name="onnx")
    print(session.kinds(given.model) if given.kinds else session.inspect(given.model, as_json=given.json))
    return 0


def _profile(given: argparse.Namespace) -> int:
    result = session.profile(
        given.model,
        given.data,
        runs=given.runs,
        top=given.top,
        trace=given.trace,
        save=given.save,
        paths=given.paths,
        mode=given.mode,
        num_threads=given.threads,
        isa=given.isa,
        allow_host=given.allow_host,
        as_json=given.json,
    )
    print(result)
    return 0


def _bench(given: argparse.Namespace) -> int:
    result = bench.bench(
        given.model,
        given.data,
        versus=None,
        threads=given.threads,
        batch="1",
        shapes=None,
        runs=given.runs,
        seconds=given.seconds,
        weights=[],
        isa=given.isa,
        allow_host=given.allow_host,
        as_json=given.json,
        mode=given.mode,
    )
    print(result)
    return 0


def _stress(given: argparse.Namespace) -> int:
    told, well = session.stress(
        given.model,
        concurrency=given.concurrency,
        runs=given.runs,
        arenas=given.arenas,
        budget=given.budget,
        num_threads=given.threads,
        isa=given.isa,
        allow_host=given.allow_host,
        as_json=given.json,
    )
    print(told)
    return 0 if well else 1


def _generate(given: argparse.Namespace) -> int:
    from edgekern.cli import text

    figures = text.generate(
        given.model,
        given.prompt,
        tokenizer=given.tokenizer,
        weights=given.weights,
        group_size=given.group_size,
        kv=given.kv,
        window=given.window,
        max_new_tokens=given.max_new_tokens,
        temperature=given.temperature,
        top_k=given.top_k,
        top_p=given.top_p,
        seed=given.seed,
        num_threads=given.threads,
        memory_budget=given.memory_budget,
    )
    print(figures)
    return 0


def _perplexity(given: argparse.Namespace) -> int:
    from edgekern.cli import text

    table = text.perplexity(
        given.model,
        given.text,
        tokenizer=given.tokenizer,
        weights=given.weights or [],
        kv=given.kv or ["int8"],
        reference=given.reference,
        window=given.window,
        sinks=given.sinks,
        separator=given.separator,
        texts=given.texts,
        tokens=given.tokens,
        num_threads=given.threads,
    )
    print(table)
    return 0


def _plan(given: argparse.Namespace) -> int:
    from edgekern.cli import memory

    told, fits = memory.plan(
        given.model,
        **{name: getattr(given, name) for name in (*_PLANNED, "weights", "kv", "isa")},
        num_threads=given.threads,
        device_bytes=given.device,
        reserved_bytes=given.reserved,
        as_json=given.json,
    )
    print(told)
    return 0 if fits else 1


def _info(given: argparse.Namespace) -> int:
    print(session.info())
    return 0
