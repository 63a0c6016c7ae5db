"""Programs and this machine: commands that work in the base install."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edgekern import _core, ops, runtime
from edgekern.cli.data import files_of, read_feeds
from edgekern.errors import ArgumentValueError

Array = npt.NDArray[Any]


def run(model: Path, data: Sequence[Path], *, output: Path | None, num_threads: int | None, isa: str | None) -> str:
    session = runtime.InferenceSession(model, num_threads=num_threads, isa=isa)
    names = [node.name for node in session.get_outputs()]
    files = list(files_of(data))
    if len(files) > 1 and output is not None:
        raise ArgumentValueError(f"run: --output holds the outputs of one file, got {len(files)}; run them one by one")
    lines: list[str] = []
    kept: dict[str, list[Array]] = {name: [] for name in names}
    for number, feed in enumerate(read_feeds(files, {node.name: node.shape for node in session.get_inputs()})):
        results = session.run(names, feed)
        for name, result in zip(names, results, strict=True):
            with np.printoptions(threshold=12, precision=5, suppress=True):
                lines.append(f"[{number}] {name} {result.dtype}{list(result.shape)}\n{result}")
            if output is not None:
                kept[name].append(result)
    if output is not None:
        outputs = {name: _joined(name, pieces) for name, pieces in kept.items()}
        with output.open("wb") as file:
            np.savez(file, allow_pickle=False, **outputs)
    return "\n".join(lines)


def _joined(name: str, pieces: Sequence[Array]) -> Array:
    """The rows of all runs."""
    if len(pieces) == 1:
        return pieces[0]
    if not pieces or not pieces[0].ndim:
        raise ArgumentValueError(f"run: output '{name}' has no rows, so those of {len(pieces)} runs are not joined")
    return np.concatenate(pieces)


def verify(model: Path) -> str:
    runtime.InferenceSession(model, verify="full")
    return f"{model}: every byte is as it was written ({model.stat().st_size} bytes)"


def inspect(model: Path) -> str:
    session = runtime.InferenceSession(model)
    lines = [f"{model}: {model.stat().st_size} bytes, arena {session.arena_bytes} bytes"]
    lines += [f"input   {node.name} {node.type} {node.shape}" for node in session.get_inputs()]
    lines += [f"output  {node.name} {node.type} {node.shape}" for node in session.get_outputs()]
    return "\n".join([*lines, "", str(session.summary())])


def info() -> str:
    facts = {"edgekern": _core.__version__, "numpy": np.__version__, **ops.cpu_info()}
    return "\n".join(
        f"{name:<12} {', '.join(fact) if isinstance(fact, list) else fact}" for name, fact in facts.items()
    )
