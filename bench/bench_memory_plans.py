"""Arenas of models: ``python -m bench memory_plans [--data FOLDER] [--models NAME ...] [--json rows.jsonl]``.

``before`` is the arena with the steps in the graph's order and each result beside its inputs, ``arena`` with the order
and the results over inputs that the compiler chooses, ``bound`` what no plan of that order is smaller than; ``proved``
says that the arena is as small. The models are the package's and every .onnx file of the folder (EDGEKERN_TEST_DATA),
each as it is and in 8 bits, with ranges of noise: places and sizes do not depend on them.

Beside them onnxruntime, measured in a process of its own with one thread. ``ort arena``: how far the process's own
memory (Anonymous of smaps_rollup) grew over the first run, with onnxruntime's arena and memory pattern as they are by
default; the arena keeps what it took. ``ort alive``: without that arena, and with malloc told to map 16 KB and more one
by one and give them back (MALLOC_MMAP_THRESHOLD_), how far the peak of a second run (VmHWM, set back before it) lies
above what the process held before it; less than 256 KB is not told, as the system counts that many pages at a time.
Both hold workspaces of kernels beside tensors, and whole pages. Linux alone tells them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import onnx
from onnx import helper

import edgekern as ek
from bench.harness import Row, machine, print_table, version, write_json
from edgekern import quickstart
from edgekern.compiler import pipeline
from edgekern.compiler.memory import plan_memory

PACKAGES = ("numpy", "onnx", "onnxruntime")
COUNTED_AT_ONCE = 2**18  # bytes that a thread takes before the system's count of the process knows
COLUMNS = {
    "model": "s",
    "numbers": "s",
    "before": ",d",
    "arena": ",d",
    "bound": ",d",
    "proved": "s",
    "in_place": "d",
    "ort arena": ",d",
    "ort alive": ",d",
}


def noise(model: onnx.ModelProto) -> dict[str, Any]:
    """One sample for each input that no weight fills."""
    rng, stored = np.random.default_rng(0), {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, Any] = {}
    for value in model.graph.input:
        if value.name not in stored:
            tensor = value.type.tensor_type
            shape = [side.dim_value or 1 for side in tensor.shape.dim]
            dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
            feeds[value.name] = rng.normal(0, 1, shape).astype(dtype)
    return feeds


def sources(folder: Path | None, wanted: Sequence[str] | None) -> Iterator[tuple[str, onnx.ModelProto]]:
    paths = [quickstart.MODEL, *([] if folder is None else sorted(folder.rglob("*.onnx")))]
    for path in map(Path, paths):
        if wanted and path.stem not in wanted:
            continue
        try:
            model = onnx.load(path)
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            print(f"{path.stem}: left out, as its weights are not there ({type(error).__name__})")
            continue
        yield path.stem, model
        calibrator = ek.Calibrator(model, progress=False)
        calibrator.collect(noise(model))
        yield path.stem, ek.quantize(model, calibrator.compute_ranges())


def arenas(model: onnx.ModelProto) -> Row:
    """Before and after."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ek.errors.EdgekernWarning)
        program = ek.compile(model)
        with mock.patch.object(pipeline, "smaller_plan", lambda stages, *ends: (stages, plan_memory(stages, *ends))):
            before = ek.compile(model)
    plan, index = program.memory_plan, program.index
    written = [step.outputs[0] for step in index.steps]
    return {
        "before": before.memory_plan.arena_bytes,
        "arena": plan.arena_bytes,
        "bound": plan.lower_bound,
        "proved": "yes" if plan.arena_bytes == plan.lower_bound else "no",
        "in_place": sum(index.tensors[tensor].alias_of >= 0 for tensor in written),
    }


def onnxruntime_bytes(path: Path) -> Row:
    found: dict[str, int] = {}
    for column in ("ort arena", "ort alive"):
        environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "16384", "MALLOC_ARENA_MAX": "1"}
        command = [sys.executable, "-m", "bench.bench_memory_plans", "--onnxruntime", column, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        if done.returncode == 0:
            size = int(done.stdout.split()[-1])
            found |= {column: size} if column == "ort arena" or size >= COUNTED_AT_ONCE else {}
        else:
            print(f"onnxruntime, {column}: {done.stderr.strip().splitlines()[-1:]}")
    return found


def _told(file: str, name: str) -> int:
    """Bytes, as the system tells them of this process."""
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def measure_onnxruntime(column: str, path: str) -> None:
    """In a process of its own."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if column == "ort alive":
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    feeds = noise(onnx.load(path))
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    before = _told("smaps_rollup", "Anonymous")
    session.run(None, feeds)
    if column == "ort arena":
        print(_told("smaps_rollup", "Anonymous") - before)
        return
    Path("/proc/self/clear_refs").write_text("5")
    before = _told("status", "VmRSS")
    session.run(None, feeds)
    print(_told("status", "VmHWM") - before)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench memory_plans", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=os.environ.get("EDGEKERN_TEST_DATA"), help="folder of models")
    parser.add_argument("--models", nargs="+", help="names of files, without .onnx; all of them where left out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--onnxruntime", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.onnxruntime:
        measure_onnxruntime(*options.onnxruntime)
        return 0
    host = {"edgekern": version("edgekern"), **machine(PACKAGES)}
    print(*(f"{key}: {fact}" for key, fact in host.items()), sep="; ")
    rows: list[Row] = []
    names: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, model in sources(options.data, options.models):
            numbers = ("float32", "8 bits")[names.get(name, 0)]
            names[name] = names.get(name, 0) + 1
            path = Path(folder) / "model.onnx"
            onnx.save(model, path)
            rows.append({"model": name, "numbers": numbers, **arenas(model), **onnxruntime_bytes(path)})
    print_table(rows, COLUMNS)
    record = {"record": "run", "bench": "memory_plans", **host}
    write_json(options.json, [record, *({"record": "memory_plan", **row} for row in rows)])
    return int(any(row["arena"] > row["before"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
