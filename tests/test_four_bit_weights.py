"""Weights of 4 bits a channel: half a byte each in the file, and the bits of the same codes stored in 8."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from edgekern import _core
from edgekern._core import StepKind, Storage
from edgekern.artifact import container
from edgekern.compiler import emit
from edgekern.compiler.nibbles import in_four_bits
from edgekern.errors import ArtifactError

from graphs import Graph


def _weights(g, shape, kind, *, per_channel=True):
    """Dequantized codes in [-8, 7]: as INT4, as INT8 of older opsets, or as UINT4 around 8."""
    codes = g.rng.integers(-8, 8, shape)
    scale = g.rng.uniform(0.01, 0.03, shape[0] if per_channel else ()).astype(np.float32)
    axis = {"axis": 0} if per_channel else {}
    if kind == "int8":
        return g.op("DequantizeLinear", g.const(codes, np.int8), g.const(scale), **axis)
    dtype = TensorProto.INT4 if kind == "int4" else TensorProto.UINT4
    name = f"w{len(g.constants)}"
    values = codes if kind == "int4" else codes + 8
    g.constants.append(helper.make_tensor(name, dtype, shape, values.reshape(-1).tolist()))
    zero = []
    if kind == "uint4":
        count = shape[0] if per_channel else 1
        g.constants.append(helper.make_tensor(f"{name}_zero", dtype, scale.shape, [8] * count))
        zero = [f"{name}_zero"]
    return g.op("DequantizeLinear", name, g.const(scale), *zero, **axis)


def _quantized(g, x, scale):
    scale, zero = g.const(scale, np.float32), g.const(128, np.uint8)
    return g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero), scale, zero)


def net(kind="int4", *, opset=21, per_channel=True):
    """Convolutions, depthwise and in groups, and a Gemm, with weights of 4 bits."""
    g = Graph(seed=4, opset=opset)
    w = {"kind": kind, "per_channel": per_channel}
    x = _quantized(g, g.input("x", [1, 16, 9, 9]), 0.02)
    x = _quantized(g, g.op("Conv", x, _weights(g, (80, 16, 3, 3), **w), pads=[1, 1, 1, 1]), 0.1)
    x = _quantized(g, g.op("Conv", x, _weights(g, (80, 1, 3, 3), **w), pads=[1, 1, 1, 1], group=80), 0.1)
    x = _quantized(g, g.op("Conv", x, _weights(g, (56, 10, 3, 3), **w), group=8), 0.2)
    x = _quantized(g, g.op("Gemm", g.op("Flatten", x), _weights(g, (33, 56 * 49), **w), transB=1), 0.3)
    return g.model(x)


@pytest.fixture
def in_bytes(monkeypatch):
    """Compiles as if no weights fitted into 4 bits."""

    def compiled(model):
        with monkeypatch.context() as patched:
            patched.setattr(emit, "in_four_bits", lambda content, *_: content)
            return ek.compile(model, allow_host=False)

    return compiled


def _same_bits(a, b, isa, threads=1):
    feeds = {info.name: np.random.default_rng(1).normal(size=info.shape).astype(np.float32) for info in a.inputs}
    ys = [ek.InferenceSession(one, isa=isa, num_threads=threads).run(None, feeds)[0] for one in (a, b)]
    assert ys[0].tobytes() == ys[1].tobytes()
    assert len(np.unique(ys[0])) > 2


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("kind", "opset", "per_channel"),
    [("int4", 21, True), ("int4", 21, False), ("uint4", 21, True), ("int8", 13, True), ("int8", 21, False)],
)
def test_weights_of_4_bits_are_stored_so_and_give_the_same_bits(kind, opset, per_channel, in_bytes, isa, threads):
    model = net(kind, opset=opset, per_channel=per_channel)
    program, whole = ek.compile(model, allow_host=False), in_bytes(model)
    assert [blob.parts for blob in program.index.blobs if blob.stored == Storage.INT4] == [1, 1, 8, 1]
    assert all(blob.stored == Storage.WHOLE for blob in whole.index.blobs)
    codes = sum(blob.parts * blob.codes for blob in program.index.blobs)
    assert whole.nbytes - program.nbytes >= codes // 2 - 64 * 3 - 64
    assert program.nbytes < 0.6 * whole.nbytes
    _same_bits(program, whole, isa, threads)


def test_it_is_told(in_bytes):
    model = net()
    told = ek.compile(model).summary().splitlines()[0]
    assert told.startswith("multiply-adds: 100.0% in 8 bits, 0.0% in float32, 0.0% on the host; ")
    assert told.endswith("% by weights of 4 bits")
    assert "4 bits" not in in_bytes(model).summary()


@pytest.mark.parametrize("k", [64, 63])
@pytest.mark.parametrize("columns", [1, 16, 65, 130])
def test_matrices_of_any_width(columns, k, in_bytes, isa):
    g = Graph(seed=columns, opset=21)
    x = _quantized(g, g.input("x", [3, k]), 0.02)
    w = g.const(g.rng.integers(-8, 8, (k, columns)), np.int8)
    scale = g.const(g.rng.uniform(0.01, 0.03, columns), np.float32)
    model = g.model(g.op("MatMul", x, g.op("DequantizeLinear", w, scale, axis=1)))
    program = ek.compile(model)
    assert any(blob.stored == Storage.INT4 for blob in program.index.blobs)
    _same_bits(program, in_bytes(model), isa)


def test_activations_of_16_bits_take_them_too(in_bytes, isa):
    g = Graph(seed=9, opset=21)
    scale, zero = g.const(4 / 2**15, np.float32), g.const(np.array(2**15, np.uint16))
    x = g.op("DequantizeLinear", g.op("QuantizeLinear", g.input("x", [2, 64]), scale, zero), scale, zero)
    model = g.model(g.op("Gemm", x, _weights(g, (48, 64), "int4"), transB=1))
    program = ek.compile(model)
    assert program.precisions == ("16 bits",) * len(program.precisions)
    assert any(blob.stored == Storage.INT4 for blob in program.index.blobs)
    _same_bits(program, in_bytes(model), isa)


@pytest.mark.parametrize("code", [-9, 8])
def test_one_code_that_does_not_fit_keeps_the_byte(code):
    w = np.random.default_rng(0).integers(-8, 8, (1, 64, 1, 64)).astype(np.int8)
    sizes = {"rows": 1, "k": 64, "columns": 64}
    assert isinstance(in_four_bits(_core.pack_weights_blob(w), StepKind.GEMM, sizes), container.Kept)
    w[0, 63, 0, 63] = code
    packed = _core.pack_weights_blob(w)
    assert in_four_bits(packed, StepKind.GEMM, sizes) is packed


def test_nibbles_lie_in_the_order_of_packed_codes():
    w = np.random.default_rng(7).integers(-8, 8, (2, 20, 3, 8)).astype(np.int8)
    sizes = {"kernel_h": 3, "kernel_w": 1, "groups": 2, "out_channels": 40, "in_channels": 16}
    packed = _core.pack_weights_blob(w)
    stored = in_four_bits(packed, StepKind.CONV, sizes)
    assert (stored.form.parts, stored.form.codes) == (2, 32 * 3 * 8)
    parts = np.frombuffer(packed, np.int8).reshape(2, -1)
    for at in range(2 * stored.form.codes):
        line, place = divmod(at, 64)
        byte = int(stored.content[line * 32 + place % 32])
        nibble = byte & 15 if place < 32 else byte >> 4
        assert (nibble ^ 8) - 8 == parts[at // stored.form.codes, at % stored.form.codes]
    begin = 2 * stored.form.codes // 2
    assert stored.content[begin:].tobytes() == parts[:, stored.form.codes :].tobytes()
    assert hashlib.sha256(stored.content).hexdigest() == GOLDEN  # what files have, for good


GOLDEN = "462180f5bd4b3ee546e2ff153101c683fa9ae833ec4bbf2d57aa886a560cbe67"


def test_arenas_and_modes_share_what_was_widened():
    model = net()
    program = ek.compile(model)
    widened = sum(blob.parts * blob.codes for blob in program.index.blobs)
    one, three = (ek.InferenceSession(program, arenas=count).arena_bytes for count in (1, 3))
    assert widened < one
    assert three - one < 2 * (one - widened) + 1
    both = ek.compile_modes({"a": program, "b": program})
    assert len(both.index.blobs) == len(program.index.blobs) + 1
    assert ek.InferenceSession(both).arena_bytes < 2 * one - widened
    _same_bits(both, program, _core.available_isas()[0])


def _rebuilt(program, **changes):
    """A file whose hashes are right, and whose first blob of 4 bits is told otherwise."""
    blobs = []
    for entry in program.index.blobs:
        kept = program.container.stored(entry.name)
        if kept.form.stored == Storage.INT4 and changes:
            fields = {"stored": Storage.INT4, "parts": entry.parts, "codes": entry.codes, **changes}
            kept, changes = container.Kept(kept.content, container.Form(**fields)), {}
        blobs.append((entry.name, kept))
    return container.build(program.index, blobs, program.container.metadata)


@pytest.mark.parametrize(
    "changes",
    [
        {"parts": 0},
        {"parts": 2},
        {"parts": 2**32 - 1},
        {"codes": 0},
        {"codes": 1},
        {"codes": 64},
        {"codes": 2**63},
        {"codes": 2**64 - 64},
        {"stored": Storage.F16, "parts": 0, "codes": 0},
        {"stored": Storage.WHOLE, "parts": 0, "codes": 0},
    ],
)
def test_files_that_tell_other_codes_are_refused(changes):
    program = ek.compile(net())
    assert ek.Program.load(_rebuilt(program)) == program
    with pytest.raises(ArtifactError):
        ek.Program.load(_rebuilt(program, **changes))


def test_it_travels_like_any_program(tmp_path):
    program = ek.compile(net())
    program.save(tmp_path / "m.ekm")
    assert ek.Program.load(tmp_path / "m.ekm") == program
    _same_bits(ek.Program.load(tmp_path / "m.ekm"), program, _core.available_isas()[0])
