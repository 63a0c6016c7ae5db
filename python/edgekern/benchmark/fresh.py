"""What a model costs a process that has just begun: opening it, its first run, and memory.

``python -m edgekern.benchmark.fresh`` is that process: it reads a :class:`Job` and writes a :class:`Fresh`, as JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from edgekern.errors import EdgekernError

_TIMEOUT_S = 600


@dataclass(frozen=True)
class Job:
    """What to open and run.

    Attributes
    ----------
    who : whose session
    model, feeds : paths; ``feeds`` is an .npz, and of a language model nothing
    options : of the session
    """

    who: Literal["edgekern", "onnxruntime", "llm"]
    model: str
    feeds: str
    num_threads: int
    options: dict[str, Any]


@dataclass(frozen=True)
class Fresh:
    """What it took, the file being in the system's memory already.

    Attributes
    ----------
    open_ms : from the path to a session
    first_run_ms : of the first run, or of a language model's first token
    import_bytes : the process's peak behind its imports
    peak_bytes : at its end
    """

    open_ms: float
    first_run_ms: float
    import_bytes: int
    peak_bytes: int


def measured(job: Job) -> Fresh:
    """A process is started, which takes a second.

    Raises
    ------
    EdgekernError
        It failed.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "edgekern.benchmark.fresh"],
            input=json.dumps(asdict(job)),
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EdgekernError(f"bench: a process of its own for {job.model} failed: {error}") from error
    if done.returncode != 0:
        told = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise EdgekernError(f"bench: a process of its own for {job.model} failed: {told}")
    return Fresh(**json.loads(done.stdout.splitlines()[-1]))


def _peak_bytes() -> int:
    """Largest resident memory of this process."""
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss begins at that of the process that started this one
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return int(line.split()[1]) << 10
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _halves(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """bfloat16, of which NumPy's files know two bytes."""
    if array.dtype.kind != "V":
        return array
    import ml_dtypes

    return array.view(ml_dtypes.bfloat16)


def _opener(job: Job) -> tuple[Callable[[], Any], Callable[[Any], object]]:
    """Two steps, with all imports done: make a session; run it."""
    if job.who == "llm":
        from edgekern import llm

        return lambda: llm.load(job.model, num_threads=job.num_threads, **job.options), lambda model: model.prefill([1])
    with np.load(job.feeds, allow_pickle=False) as arrays:
        feeds = {name: _halves(array) for name, array in arrays.items()}
    if job.who == "edgekern":
        from edgekern.runtime import InferenceSession

        def run(session: InferenceSession) -> object:
            return session.run(None, {info.name: feeds[info.name] for info in session.program.inputs})

        return lambda: InferenceSession(job.model, num_threads=job.num_threads, **job.options), run
    import onnxruntime as _  # noqa: F401

    from edgekern._onnxruntime import open_peer, ort_value

    def run_peer(session: Any) -> object:
        return session.run_with_ort_values(None, {name: ort_value(array) for name, array in feeds.items()})

    return lambda: open_peer(job.model, num_threads=job.num_threads), run_peer


def _main() -> None:
    job = Job(**json.load(sys.stdin))
    make, run = _opener(job)
    imported, start = _peak_bytes(), time.perf_counter()
    session = make()
    opened = time.perf_counter()
    run(session)
    ended = time.perf_counter()
    print(json.dumps(asdict(Fresh((opened - start) * 1e3, (ended - opened) * 1e3, imported, _peak_bytes()))))


if __name__ == "__main__":
    _main()
