"""The digits model as a program in a folder, with samples; and small models over one row of six."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekern as ek
from edgekern import quickstart

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
helper = onnx.helper
COUNT = 40


def gated(folder: Path) -> Path:
    """Where m.ekm, bytes.ekm, ranges.json, x.npz and labels.npy are."""
    train, held_out = quickstart.load_digits()
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(train.feeds(batch=64))
    ranges = calibrator.compute_ranges()
    ek.compile(ek.quantize(quickstart.MODEL, ranges)).save(folder / "m.ekm")
    bytewise = ek.QuantConfig(inputs="uint8", outputs="int8")
    ek.compile(ek.quantize(quickstart.MODEL, ranges, bytewise)).save(folder / "bytes.ekm")
    ranges.save(folder / "ranges.json")
    np.savez(folder / "x.npz", image=held_out.images[:COUNT])
    np.save(folder / "labels.npy", held_out.labels[:COUNT])
    return folder


def feeds():
    _, held_out = quickstart.load_digits()
    return [{"image": held_out.images[at : at + 1]} for at in range(COUNT)]


def labels():
    return quickstart.load_digits()[1].labels[:COUNT]


def outputs(program):
    """Of the program and of the float model, (COUNT, 10) each."""
    import onnxruntime

    session = ek.InferenceSession(program)
    theirs = onnxruntime.InferenceSession(str(quickstart.MODEL), providers=["CPUExecutionProvider"])
    return [np.concatenate([each.run(None, feed)[0] for feed in feeds()]) for each in (session, theirs)]


def sqnr_db(ours, real):
    ours, real = ours.astype(np.float64), real.astype(np.float64)
    return 10 * math.log10((real**2).sum() / ((ours - real) ** 2).sum())


def net(nodes: list[Any], weights: dict[str, Any] | None = None, *, inputs: Any = None, outputs: Any = ("y",)) -> Any:
    """A float model, of x (n, 6) and y where nothing else is said."""
    given = inputs or {"x": ["n", 6]}
    ins = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in given.items()]
    outs = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs]
    tensors = [onnx.numpy_helper.from_array(w, name) for name, w in (weights or {}).items()]
    graph = helper.make_graph(nodes, "gated", ins, outs, initializer=tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
