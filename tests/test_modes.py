"""One program of several precisions: each gives the bytes of a program compiled for it alone, and blobs are shared."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import threading
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import edgekern as ek
from edgekern import _core
from edgekern.artifact import container
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, EdgekernWarning, HostStepError
from edgekern.runtime import measure_paths

from float_models import ranges_of, samples
from graphs import Graph
from sized_models import BATCHES, cnn, same

MODES = ("performance", "accuracy", "float")


def quantized(recipe, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # of ranges for 8 bits
        ranges = ranges_of(cnn(), samples(np.random.default_rng(0)))
        return ek.quantize(cnn(), ranges, ek.QuantConfig(recipe=recipe, **options))


@pytest.fixture(scope="module")
def models():
    return {"performance": quantized("w8a8"), "accuracy": quantized("w8a16"), "float": cnn()}


@pytest.fixture(scope="module")
def program(models):
    return ek.compile_modes(models)


@pytest.fixture(scope="module")
def alone(models):
    return {name: ek.compile(model) for name, model in models.items()}


@pytest.fixture
def feeds(rng):
    return {"x": samples(rng, 1)}


@pytest.mark.parametrize("threads", [1, 2])
def test_each_mode_gives_the_bytes_of_its_own_program(program, alone, feeds, isa, threads):
    session = ek.InferenceSession(program, isa=isa, num_threads=threads)
    wanted = {
        name: ek.InferenceSession(one, isa=isa, num_threads=threads).run(None, feeds) for name, one in alone.items()
    }
    assert len({ys[0].tobytes() for ys in wanted.values()}) == len(MODES)
    for name in (*MODES, *reversed(MODES), "accuracy", "accuracy"):
        session.mode = name
        assert session.mode == name
        same(wanted[name], session.run(None, feeds))
    for name in MODES:
        same(wanted[name], session.run(None, feeds, mode=name))
        same(wanted[name], ek.InferenceSession(program, isa=isa, mode=name).run(None, feeds))
    assert session.mode == "accuracy"


def test_a_session_begins_with_the_first(program):
    assert program.modes == MODES
    session = ek.InferenceSession(program)
    assert session.mode == "performance"
    assert session.paths == program.by_mode["performance"].paths()
    session.mode = "float"
    assert session.paths == program.by_mode["float"].paths()
    assert session.program is program
    assert session.program_of_mode is program.by_mode["float"]
    assert session.summary() == program.by_mode["float"].summary()
    assert len(list(session.trace({"x": samples(np.random.default_rng(0), 1)}))) == len(session.paths)


def test_switching_makes_nothing(program, feeds, monkeypatch):
    session = ek.InferenceSession(program, arenas=2)
    before, runners = session.arena_bytes, [runner for arena in session._arenas for runner in arena.runners]

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a session was prepared, or a file read")

    monkeypatch.setattr(_core, "Session", refuse)
    monkeypatch.setattr(ek.Program, "load", refuse)
    for name in MODES * 2:
        session.mode = name
        session.run(None, feeds)
    assert session.arena_bytes == before
    assert [runner for arena in session._arenas for runner in arena.runners] == runners


def test_modes_share_one_arena_the_largest(program):
    largest = max(one.index.arena_bytes for one in program.all)
    session = ek.InferenceSession(program)
    assert sum(runner.core.arena_bytes >= largest for runner in session._arenas[0].runners) == 1


def _hashes(one):
    return {entry.sha256: entry.bytes for entry in one.index.blobs}


def _dense(*bits, layers=6):
    """Layers in a row whose weights are those of the seed, of activations of so many bits."""
    g = Graph(seed=5, opset=21)
    x = g.input("x", [2, 64])
    for layer in range(layers):
        code, kind = (np.uint16, TensorProto.UINT16) if bits[layer] == 16 else (np.uint8, TensorProto.UINT8)
        scale, zero = g.const(np.float32(4 / 2 ** bits[layer])), g.const(np.array(2 ** (bits[layer] - 1), code))
        q = g.op("DequantizeLinear", g.op("QuantizeLinear", x, scale, zero, output_dtype=kind), scale, zero)
        w = g.const(g.rng.integers(-127, 128, (64, 64)), np.int8)
        w = g.op("DequantizeLinear", w, g.const(g.rng.uniform(0.001, 0.002, 64), np.float32), axis=1)
        x = g.op("MatMul", q, w)
    return g.model(x)


@pytest.mark.parametrize("apart", [(), (3,), (0, 5)])
def test_what_modes_have_in_common_is_stored_once(apart):
    first = _dense(*[8] * 6)
    other = _dense(*[16 if layer in apart else 8 for layer in range(6)])
    a, b = ek.compile(first), ek.compile(other)
    both = ek.compile_modes({"a": a, "b": b})
    indices = {variant.blob for variant in both.manifest.variants}
    kept = {entry.sha256: entry.bytes for entry in both.index.blobs if entry.name not in indices}
    assert kept == _hashes(a) | _hashes(b)
    assert len(both.index.blobs) == len(kept) + 1  # and the other index
    apart_bytes = sum(size for sha, size in _hashes(b).items() if sha not in _hashes(a))
    assert bool(apart_bytes) == bool(apart)
    told = sum(entry.bytes for entry in both.index.blobs if entry.name in indices)
    assert told < b.index.blobs[0].offset  # its own index
    assert both.nbytes <= a.nbytes + apart_bytes + b.index.blobs[0].offset + b.container.start
    x = np.random.default_rng(0).normal(size=(2, 64)).astype(np.float32)
    session = ek.InferenceSession(both)
    for name, one in (("a", a), ("b", b)):
        same(ek.InferenceSession(one).run(None, {"x": x}), session.run(None, {"x": x}, mode=name))


def test_weights_stored_as_halves_are_shared_and_widened_once():
    def model(*, gelu):
        g = Graph(seed=2)
        x = g.op("Cast", g.input("x", [4, 64]), to=TensorProto.FLOAT16)
        y = g.op("MatMul", x, g.const(g.rng.normal(size=(64, 512)).astype(np.float16)))
        return g.model(g.op("Cast", g.op("Relu" if gelu else "Neg", y), to=TensorProto.FLOAT))

    one = ek.compile(model(gelu=True))
    both = ek.compile_modes({"a": one, "b": model(gelu=False)})
    assert both.nbytes < one.nbytes + 8192
    assert ek.InferenceSession(both).arena_bytes < ek.InferenceSession(one).arena_bytes + 64 * 512 * 4


def test_modes_have_sizes_too(models, rng):
    program = ek.compile_modes(models, batch=BATCHES)
    assert len(program.all) == len(BATCHES) * len(MODES)
    assert [one.number for one in program.all] == list(range(9))
    session = ek.InferenceSession(program)
    for name, model in models.items():
        single = ek.InferenceSession(ek.compile(model, batch=BATCHES))
        for rows in (1, 3, 4, 7):
            x = {"x": samples(rng, rows)}
            session.mode = name
            same(single.run(None, x), session.run(None, x))
            assert session.choose(x) == single.choose(x)
            bound = session.io_binding()
            bound.bind_cpu_input("x", x["x"])
            bound.bind_output(session.get_outputs()[0].name)
            session.run_with_iobinding(bound)
            same(single.run(None, x)[:1], bound.copy_outputs_to_cpu())
    assert "sizes: N 1, 2, 4, any number" in program.summary()


def test_what_lies_between_sizes_is_allowed_where_every_mode_allows_it(models):
    a, b = (ek.compile(models[name], batch=BATCHES) for name in ("performance", "accuracy"))
    strict = b.with_buckets(
        replace(b.buckets, dimensions=tuple(replace(one, padded=False, rows=False) for one in b.buckets.dimensions))
    )
    for given in ({"a": a, "b": strict}, {"b": strict, "a": a}):
        [dimension] = ek.compile_modes(given).buckets.dimensions
        assert (dimension.padded, dimension.rows) == (False, False)


def test_bound_arrays_run_in_the_mode_of_each_run(program, alone, feeds):
    session = ek.InferenceSession(program)
    bound = session.bind(feeds)
    io = session.io_binding()
    io.bind_cpu_input("x", feeds["x"])
    io.bind_output(session.get_outputs()[0].name)
    for name in (*MODES, "performance"):
        session.mode = name
        wanted = ek.InferenceSession(alone[name]).run(None, feeds)
        same(wanted, list(bound.run().values()))
        session.run_with_iobinding(io)
        same(wanted[:1], io.copy_outputs_to_cpu())


def test_calls_that_wait_stay_in_their_mode(program, alone, feeds):
    session = ek.InferenceSession(program)
    wanted = {name: ek.InferenceSession(one).run(None, feeds) for name, one in alone.items()}
    with session._lender.lend():  # nobody runs
        waiting = []
        for name in (*MODES, "performance"):
            session.mode = name
            waiting.append((name, session.run_async(None, feeds)))
        waiting.append(("float", session.run_async(None, feeds, mode="float")))
    for name, future in waiting:
        same(wanted[name], future.result())
    with pytest.raises(ArgumentValueError, match="run_async: mode must be one of"):
        session.run_async(None, feeds, mode="fast")


def test_a_batcher_runs_in_the_mode_of_its_session(models, rng):
    session = ek.InferenceSession(ek.compile_modes(models, batch=4))
    x = {"x": samples(rng, 2)}
    with ek.Batcher(session, max_delay_us=0) as batcher:
        for name in MODES:
            session.mode = name
            same(ek.InferenceSession(ek.compile(models[name], batch=2)).run(None, x), batcher.run(None, x))


def test_threads_may_switch_while_others_run(program, alone, feeds):
    wanted = {ek.InferenceSession(one).run(None, feeds)[0].tobytes() for one in alone.values()}
    session = ek.InferenceSession(program, arenas=2)
    done, strange = threading.Event(), []

    def run():
        while not done.is_set():
            [y, *_] = session.run(None, feeds)
            if y.tobytes() not in wanted:
                strange.append(y)

    callers = [threading.Thread(target=run) for _ in range(3)]
    for caller in callers:
        caller.start()
    for number in range(300):
        session.mode = MODES[number % 3]
        session.run(None, feeds)
    done.set()
    for caller in callers:
        caller.join()
    assert not strange


def _with_host(*, hosted):
    g = Graph(opset=17)
    x = g.input("x", [2, 6, 6])
    y = g.op("Sin" if hosted else "Cos", x)
    return g.model(g.op("Relu", g.op("Det", y) if hosted else g.op("ReduceMean", y, axes=[1, 2], keepdims=0)))


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_host_steps_may_be_of_one_mode(order, rng):
    given = {name: _with_host(hosted=name == "b") for name in order}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        program = ek.compile_modes(given)
        alone = {name: ek.InferenceSession(ek.compile(model)) for name, model in given.items()}
    x = {"x": rng.normal(size=(2, 6, 6)).astype(np.float32)}
    session = ek.InferenceSession(program)
    bound = session.bind(x)
    for name in (*order, *order):
        session.mode = name
        same(alone[name].run(None, x), session.run(None, x))
        same(alone[name].run(None, x), list(bound.run().values()))
    with pytest.raises(HostStepError, match="allow_host=False"):
        ek.InferenceSession(program, allow_host=False)


def test_models_of_host_steps_are_stored_once():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        one = ek.compile(_with_host(hosted=True))
    program = ek.compile_modes({"a": one, "b": one, "c": one})
    assert sum("host" in entry.name for entry in program.index.blobs) == 1
    assert len(program.index.blobs) == len(one.index.blobs) + 2


def test_it_travels_like_any_program(program, feeds, tmp_path):
    program.save(tmp_path / "cnn.ekm")
    session = ek.InferenceSession(tmp_path / "cnn.ekm", mode="accuracy")
    wanted = session.run(None, feeds)
    again = (pickle.loads(pickle.dumps(session)), copy.deepcopy(session))
    for one in again:
        assert one.mode == "accuracy"
        same(wanted, one.run(None, feeds))
    part = program.by_mode["accuracy"]
    assert part != program
    assert pickle.loads(pickle.dumps(part)) == part
    same(wanted, ek.InferenceSession(part).run(None, feeds))
    same(wanted, pickle.loads(pickle.dumps(ek.InferenceSession(part))).run(None, feeds))


def test_what_was_measured_is_of_one_mode(program, feeds, tmp_path):
    session = ek.InferenceSession(program, num_threads=1, mode="accuracy")
    paths = measure_paths(session, feeds, runs=9)
    paths.save(tmp_path / "paths.json")
    opened = ek.InferenceSession(program, num_threads=1, paths=tmp_path / "paths.json")
    same(session.run(None, feeds), opened.run(None, feeds, mode="accuracy"))
    first = measure_paths(ek.InferenceSession(program, num_threads=1), feeds, runs=9)
    assert first.program != paths.program


def test_modes_that_are_not_there_are_refused(program, alone, feeds):
    session = ek.InferenceSession(program)
    told = r"mode must be one of \['performance', 'accuracy', 'float'\], got 'fast'"
    with pytest.raises(ArgumentValueError, match=f"InferenceSession: {told}"):
        ek.InferenceSession(program, mode="fast")
    with pytest.raises(ArgumentValueError, match=f"run: {told}"):
        session.run(None, feeds, mode="fast")
    with pytest.raises(ArgumentValueError, match=f"mode: {told}"):
        session.mode = "fast"
    for wrong in (None, 1, b"accuracy"):
        with pytest.raises(ArgumentTypeError, match="mode: mode must be"):
            session.mode = wrong
    assert session.mode == "performance"
    single = ek.InferenceSession(alone["float"])
    assert (single.mode, single.program.modes, single.program.by_mode) == (None, (), {})
    with pytest.raises(ArgumentValueError, match=r"one precision, got 'float'; edgekern\.compile_modes"):
        single.mode = "float"


def _relu(name="x", shape=(2, 4), kind=TensorProto.FLOAT, out=1):
    g = Graph(opset=17)
    x = g.input(name, list(shape), kind)
    return g.model(*(g.op("Relu", x) for _ in range(out)))


@pytest.mark.parametrize(
    ("models", "error", "told"),
    [
        ([_relu()], ArgumentTypeError, "models must be a mapping of names to models, got list"),
        ({"a": _relu()}, ArgumentValueError, "models must have two modes or more, got 1; edgekern.compile"),
        ({"a": _relu(), 2: _relu()}, ArgumentTypeError, "names of modes must be str, got int"),
        ({"a": _relu(), "": _relu()}, ArgumentValueError, "must be 1 to 1024 printable characters, got ''"),
        (
            {"a": _relu(), "b" * 9999: _relu()},
            ArgumentValueError,
            "must be 1 to 1024 printable characters, got 'one of 9999'",
        ),
        ({"a": _relu(), "b\n": _relu()}, ArgumentValueError, "names of modes must be 1 to 1024 printable"),
        ({"a": _relu(), "b": _relu("z")}, ArgumentValueError, "got the input .*'x'.* of 'a' and .*'z'.* of 'b'"),
        ({"a": _relu(), "b": _relu(shape=(2, 5))}, ArgumentValueError, r"\(2, 4\).* of 'a' and .*\(2, 5\)"),
        ({"a": _relu(), "b": _relu(kind=TensorProto.FLOAT16)}, ArgumentValueError, "float32.* of 'a' and .*float16"),
        ({"a": _relu(), "b": _relu(out=2)}, ArgumentValueError, "got 1 outputs of 'a' and 2 of 'b'"),
        (
            {"a": ek.compile_modes({"c": _relu(), "d": _relu()}), "b": _relu()},
            ArgumentValueError,
            "'a', which has modes of its own",
        ),
        ({str(n): ek.compile(_relu()) for n in range(65)}, ArgumentValueError, "at most the 64 programs .* got 65"),
    ],
)
def test_modes_that_do_not_fit_are_refused(models, error, told):
    with pytest.raises(error, match=told):
        ek.compile_modes(models)


def test_programs_of_other_sizes_are_no_modes(models):
    several, one = ek.compile(models["performance"], batch=BATCHES), ek.compile(models["accuracy"])
    with pytest.raises(
        ArgumentValueError, match="got the sizes N 1, 2, 4, any number of 'a' and of one program of 'b'"
    ):
        ek.compile_modes({"a": several, "b": one})


def test_damaged_blobs_are_not_taken_over(alone):
    damaged = bytearray(bytes(alone["float"].container.data))
    entry = alone["float"].index.blobs[0]
    damaged[alone["float"].container.start + entry.offset] ^= 1
    lazy = ek.Program.load(bytes(damaged), verify="lazy")
    with pytest.raises(ArtifactError, match=f"'{entry.name}' are not those that were written"):
        ek.compile_modes({"a": alone["performance"], "b": lazy})


def _rebuilt(program, manifest, blob=None):
    """A file whose hashes are right and whose manifest, or last blob, is another."""
    content = [(entry.name, program.container.stored(entry.name)) for entry in program.index.blobs]
    if blob is not None:
        content[-1] = (content[-1][0], blob)
    metadata = program.container.metadata | {"ekm.manifest": manifest}
    return container.build(program.index, content, metadata)


@pytest.mark.parametrize(
    "modes",
    [[], ["a"], ["a", "b"], ["a", "b", "c", "d"], ["a", "b", "b"], ["a", "b", 3], ["a", "b", "\n"], "abc", None,
     ["a", "b", "c" * 1025]],
)  # fmt: skip
def test_a_manifest_of_other_modes_is_refused(program, modes):
    fields = json.loads(program.manifest.to_json())
    assert ek.Program.load(_rebuilt(program, json.dumps(fields, separators=(",", ":")))) == program
    fields["modes"] = modes
    with pytest.raises(ArtifactError):
        ek.Program.load(_rebuilt(program, json.dumps(fields, separators=(",", ":"))))


def test_an_index_of_other_borders_is_no_mode(program, models):
    fields = json.loads(program.manifest.to_json())
    wide = ek.compile_modes(models, batch=2)
    blob = wide.container.blob(wide.manifest.variants[-1].blob)
    assert len(blob) == len(program.container.blob(program.manifest.variants[-1].blob))
    with pytest.raises(ArtifactError):
        ek.Program.load(_rebuilt(program, json.dumps(fields, separators=(",", ":")), blob))
    told = program.container.blob(program.manifest.variants[-1].blob)
    for at in range(0, len(told), 97):
        damaged = bytearray(told)
        damaged[at] ^= 0x55
        try:
            found = ek.Program.load(_rebuilt(program, json.dumps(fields, separators=(",", ":")), bytes(damaged)))
        except ArtifactError:
            continue
        assert found.modes == MODES  # padding, or a name


def test_the_command_line_takes_modes(models, tmp_path, feeds):
    for name, model in models.items():
        onnx.save(model, tmp_path / f"{name}.onnx")
    run = [sys.executable, "-c", "from edgekern.cli import main; main()"]
    given = [f"--mode={name}={tmp_path / name}.onnx" for name in MODES]
    target = str(tmp_path / "m.ekm")
    told = subprocess.run([*run, "compile", *given, "-o", target], capture_output=True, text=True, check=True).stdout
    assert "modes: performance, accuracy, float; above is performance" in told
    np.savez(tmp_path / "x.npz", **feeds)
    subprocess.run(
        [*run, "run", target, str(tmp_path / "x.npz"), "--mode", "accuracy", "-o", str(tmp_path / "y.npz")],
        check=True,
        capture_output=True,
    )
    with np.load(tmp_path / "y.npz") as found:
        same(ek.InferenceSession(target, mode="accuracy").run(None, feeds), list(found.values()))
    shown = subprocess.run([*run, "inspect", target, "--json"], capture_output=True, text=True, check=True).stdout
    assert [mode["name"] for mode in json.loads(shown)["modes"]] == list(MODES)
    timed = subprocess.run(
        [*run, "profile", target, "--mode", "float", "--runs", "2", "--json"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = [step.name for step in ek.Program.load(target).by_mode["float"].steps]
    assert [step["name"] for step in json.loads(timed)["steps"]] == names
    for wrong in (
        ["compile", "-o", target],
        ["compile", str(tmp_path / "float.onnx"), *given, "-o", target],
        ["compile", "--mode", "performance", "-o", target],
        ["run", target, str(tmp_path / "x.npz"), "--mode", "fast"],
        ["bench", target, "--mode", "fast"],
    ):
        refused = subprocess.run([*run, *wrong], capture_output=True, text=True, check=False)
        assert (refused.returncode, "mode" in refused.stderr) == (2, True), refused.stderr
