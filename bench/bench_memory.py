"""Memory that the toolkit takes: ``python -m bench memory [--models cnn bert head] [--large] [--json rows.jsonl]``.

Every step runs in a process of its own, which imports the packages, notes its peak, and then does the one step; the
figure is how far the peak grew. ``allowed`` is the model, one copy of it, and the activations of one batch (for
calibrate). The models are written with random weights: a stack of convolutions with BatchNormalization, a transformer,
and a network whose head is one layer of more than half of all weights. ``--large`` adds a transformer of 2.5 GB with
its weights in an external file: past 2 GiB one protobuf message cannot hold it. ``--long`` adds a clip of 9 s, whose
activations are many times the model. ``--model FILE`` measures a float model of yours on noise.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench.harness import Row, machine, print_table, version, write_json

FloatArray = npt.NDArray[np.float32]
PACKAGES = ("numpy", "onnx", "onnx-ir", "onnxruntime")
COLUMNS = {
    "model": "s",
    "step": "s",
    "input_mb": ".0f",
    "batch_mb": ".0f",
    "growth_mb": ".0f",
    "allowed_mb": ".0f",
    "seconds": ".1f",
}
BATCHES = 2


class Writer:
    """A float model under construction; with ``external`` the weights go to a file beside it as they are made."""

    def __init__(self, path: Path, shape: Sequence[int], *, external: bool = False) -> None:
        self.path, self.shape, self.last, self.rank = path, list(shape), "x", len(shape)
        self.rng = np.random.default_rng(0)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.data = path.with_suffix(".bin").open("wb") if external else None

    def weight(self, *shape: int, spread: float | None = None) -> str:
        name = f"w{len(self.weights)}"
        spread = float(np.prod(shape[1:])) ** -0.5 if spread is None else spread
        values = self.rng.standard_normal(shape, np.float32) * np.float32(spread)
        tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT)
        if self.data is None:
            tensor.raw_data = values.tobytes()
        else:
            tensor.data_location = TensorProto.EXTERNAL
            entries = {"location": Path(self.data.name).name, "offset": self.data.tell(), "length": values.nbytes}
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=str(value))
            self.data.write(values.data)
        self.weights.append(tensor)
        return name

    def constant(self, array: npt.NDArray[Any]) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array, name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        self.last = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [self.last], **attributes))
        return self.last

    def save(self) -> Path:
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *self.shape[1:]])
        y = helper.make_tensor_value_info(self.last, TensorProto.FLOAT, None)
        graph = helper.make_graph(self.nodes, "bench", [x], [y], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
        self.path.write_bytes(model.SerializeToString())
        if self.data is not None:
            self.data.close()
        return self.path


def cnn(path: Path, *, blocks: int = 11, channels: int = 704, side: int = 16) -> tuple[Path, tuple[int, ...]]:
    """3x3 convolutions with BatchNormalization, ReLU and a sum every second one."""
    shape = (4, channels, side, side)
    model = Writer(path, shape)
    x = "x"
    for block in range(blocks):
        conv = model.op("Conv", x, model.weight(channels, channels, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
        statistics = [model.constant(np.full(channels, value, np.float32)) for value in (1, 0, 0, 1)]
        y = model.op("Relu", model.op("BatchNormalization", conv, *statistics))
        x = model.op("Add", x, y) if block % 2 else y
    model.op("Gemm", model.op("Flatten", model.op("GlobalAveragePool", x)), model.weight(channels, 1000))
    return model.save(), shape


def head(path: Path, *, features: int = 25088, hidden: int = 1400) -> tuple[Path, tuple[int, ...]]:
    """VGG's shape: a few convolutions, and one Gemm that holds most of the model."""
    side, channels = 7, features // 49
    shape = (4, 64, side * 2, side * 2)
    model = Writer(path, shape)
    x = model.op("Relu", model.op("Conv", "x", model.weight(channels, 64, 3, 3), kernel_shape=[3, 3], pads=[1] * 4))
    for _ in range(2):
        conv = model.op("Conv", x, model.weight(channels, channels, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
        x = model.op("Relu", conv)
    x = model.op("Flatten", model.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]))
    hidden_layer = model.op(
        "Relu", model.op("Gemm", x, model.weight(features, hidden), model.weight(hidden, spread=1.0))
    )
    model.op("Gemm", hidden_layer, model.weight(hidden, 4096))
    return model.save(), shape


def bert(
    path: Path, *, layers: int = 7, width: int = 768, tokens: int = 64, external: bool = False
) -> tuple[Path, tuple[int, ...]]:
    """Encoder layers as exporters write them."""
    shape = (4, tokens, width)
    model = Writer(path, shape, external=external)
    heads = width // 64
    x = "x"
    for _ in range(layers):
        q, k, v = (
            model.op("Add", model.op("MatMul", x, model.weight(width, width)), _bias(model, width)) for _ in "qkv"
        )
        split = model.constant(np.array([0, 0, heads, 64]))
        q, v = (model.op("Transpose", model.op("Reshape", part, split), perm=[0, 2, 1, 3]) for part in (q, v))
        k = model.op("Transpose", model.op("Reshape", k, split), perm=[0, 2, 3, 1])
        scores = model.op("Mul", model.op("MatMul", q, k), model.constant(np.array(0.125, np.float32)))
        mixed = model.op("MatMul", model.op("Softmax", scores, axis=-1), v)
        joined = model.op("Transpose", mixed, perm=[0, 2, 1, 3])
        joined = model.op("Reshape", joined, model.constant(np.array([0, 0, width])))
        y = _dense(model, joined, width, width)
        x = _norm(model, model.op("Add", x, y), width)
        y = _dense(model, x, width, 4 * width)
        y = _dense(model, model.op("Mul", y, model.op("Sigmoid", y)), 4 * width, width)
        x = _norm(model, model.op("Add", x, y), width)
    return model.save(), shape


def clip(path: Path, *, samples: int = 144000) -> tuple[Path, tuple[int, ...]]:
    """Nine seconds of sound at 16 kHz through small convolutions: much data, few weights."""
    shape = (1, 1, 1, samples)
    model = Writer(path, shape)
    x, channels = "x", 1
    for width in (32, 64, 64, 64, 64, 64):
        conv = model.op(
            "Conv", x, model.weight(width, channels, 1, 9), kernel_shape=[1, 9], pads=[0, 4, 0, 4], strides=[1, 1]
        )
        x, channels = model.op("Relu", conv), width
    model.op("GlobalAveragePool", x)
    return model.save(), shape


def _dense(model: Writer, x: str, rows: int, columns: int) -> str:
    return model.op("Add", model.op("MatMul", x, model.weight(rows, columns)), _bias(model, columns))


def _bias(model: Writer, width: int) -> str:
    return model.weight(width, spread=0.02)


def _norm(model: Writer, x: str, width: int) -> str:
    return model.op("LayerNormalization", x, model.constant(np.ones(width, np.float32)), _bias(model, width))


MODELS: dict[str, Callable[[Path], tuple[Path, tuple[int, ...]]]] = {"cnn": cnn, "bert": bert, "head": head}


# --- one step, in a process of its own


def _noise(shape: Sequence[int]) -> FloatArray:
    return np.random.default_rng(1).standard_normal(shape, np.float32)


def _run_onnxruntime(folder: Path, source: Path, shape: Sequence[int]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    session.run(None, {session.get_inputs()[0].name: _noise(shape)})


def _calibrate(folder: Path, source: Path, shape: Sequence[int]) -> None:
    import edgekern as ek

    calibrator = ek.Calibrator(source)
    for _ in range(BATCHES):
        calibrator.collect({calibrator.input_names[0]: _noise(shape)})
    calibrator.compute_ranges(method="max").save(folder / "ranges.json")


def _quantize(folder: Path, source: Path, shape: Sequence[int]) -> onnx.ModelProto:
    import edgekern as ek

    return ek.quantize(source, ek.calibration.Ranges.load(folder / "ranges.json"))


def _compile(folder: Path, source: Path, shape: Sequence[int]) -> Any:
    import edgekern as ek

    return ek.compile(source, batch=shape[0])


STEPS: dict[str, Callable[[Path, Path, Sequence[int]], Any]] = {
    "onnxruntime float": _run_onnxruntime,
    "calibrate": _calibrate,
    "quantize": _quantize,
    "compile": _compile,
    "compile float": _compile,
}


def _peak_bytes() -> int:
    """VmHWM: unlike getrusage's figure, it does not begin with the peak of the process that started this one."""
    [line] = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def child(step: str, folder: Path, source: Path, shape: Sequence[int]) -> None:
    """Do one step, print what it took, and keep its result for the next."""
    import warnings

    import onnx_ir  # noqa: F401
    import onnxruntime  # noqa: F401

    import edgekern as ek

    warnings.simplefilter("ignore", ek.errors.EdgekernWarning)
    _ = ek.Calibrator, ek.quantize, ek.compile  # these names import their rooms
    before, start = _peak_bytes(), time.perf_counter()
    result = STEPS[step](folder, source, shape)
    seconds = time.perf_counter() - start
    print(json.dumps({"growth_mb": (_peak_bytes() - before) / 1e6, "seconds": seconds}))
    if step == "quantize":
        onnx.save(result, folder / "qdq.onnx", save_as_external_data=False)


# --- all steps


def _file_bytes(path: Path) -> int:
    beside = path.with_suffix(".bin")
    return path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)


def _activation_bytes(ranges: Path) -> float:
    """Bytes that the observed tensors of one batch have."""
    tensors = json.loads(ranges.read_text())["tensors"].values()
    return 4.0 * sum(int(entry["count"]) for entry in tensors) / BATCHES


def measure(name: str, folder: Path, source: Path, shape: Sequence[int]) -> Iterator[Row]:
    """A row for each step; one that fails says so."""
    for step in STEPS:
        given = folder / "qdq.onnx" if step == "compile" else source
        if not given.exists():
            continue
        command = [sys.executable, "-m", "bench", "memory", "--child", step, str(folder), str(given)]
        done = subprocess.run([*command, *map(str, shape)], capture_output=True, text=True, check=False)
        row: dict[str, Any] = {"model": name, "step": step, "input_mb": _file_bytes(given) / 1e6}
        if done.returncode == 0:
            row |= json.loads(done.stdout.splitlines()[-1])
        else:
            print(f"{name}, {step}: failed: {(done.stderr.splitlines() or ['killed'])[-1][:200]}")
        if step == "calibrate" and (folder / "ranges.json").exists():
            row["batch_mb"] = _activation_bytes(folder / "ranges.json") / 1e6
        if step != "onnxruntime float":
            row["allowed_mb"] = 2 * row["input_mb"] + row.get("batch_mb", 0.0)
        yield row


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--large", action="store_true", help="also 2.5 GB with external data: minutes, 4 GB of disk")
    parser.add_argument("--long", action="store_true", help="also a clip of 9 s")
    parser.add_argument("--model", type=Path, help="a float ONNX file of yours, with one input")
    parser.add_argument("--shape", type=int, nargs="+", help="of its input")
    parser.add_argument("--folder", type=Path, help="where the models go; default: a temporary one")
    parser.add_argument("--json", type=Path, help="append one JSON object a row to this file")
    parser.add_argument("--quick", action="store_true", help="tiny models: does it work, not how much it takes")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.child:
        step, folder, source, *shape = options.child
        child(step, Path(folder), Path(source), [int(side) for side in shape])
        return 0
    host = {"edgekern": version("edgekern"), **machine(PACKAGES)}
    print(*(f"{key}: {fact}" for key, fact in host.items()), sep="; ")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as scratch:
        for name, make in _plans(options):
            folder = Path(scratch) / name
            folder.mkdir()
            source, shape = make(folder / "float.onnx")
            for row in measure(name, folder, source, shape):
                print(f"{name}, {row['step']}: {row.get('growth_mb', float('nan')):.0f} MB", flush=True)
                rows.append(row)
            for file in folder.iterdir():
                file.unlink()
    print_table(rows, COLUMNS)
    write_json(options.json, [{"record": "run", "bench": "memory", **host}, *({"record": "memory", **r} for r in rows)])
    return int(any("growth_mb" not in row for row in rows))


def _plans(options: argparse.Namespace) -> Iterator[tuple[str, Callable[[Path], tuple[Path, tuple[int, ...]]]]]:
    if options.quick:
        yield "cnn", lambda path: cnn(path, blocks=2, channels=16, side=8)
        yield "bert", lambda path: bert(path, layers=1, width=128, tokens=8, external=True)
        return
    if options.model is not None:
        yield options.model.stem, lambda _: (options.model, tuple(options.shape or ()))
        return
    yield from ((name, MODELS[name]) for name in options.models)
    if options.long:
        yield "clip", clip
    if options.large:
        yield "large", lambda path: bert(path, layers=50, width=1024, tokens=16, external=True)
