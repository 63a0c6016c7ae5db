"""One program of several sizes: every size between gives the bytes of a program compiled for it alone."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
import warnings
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto

import edgekern as ek
from edgekern import _core
from edgekern.artifact.variants import index_of, told_by
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    ArtifactError,
    CompileError,
    EdgekernError,
    EdgekernWarning,
)
from edgekern.runtime import random_feeds

from float_models import samples
from graphs import Graph
from sized_models import BATCHES, LENGTHS, cnn, encoder, quantized_cnn, same, text


@pytest.fixture(scope="module")
def images():
    model = quantized_cnn()
    return ek.compile(model, batch=BATCHES), ek.compile(model)


@pytest.fixture(scope="module")
def texts():
    return ek.compile(encoder(), batch=(1, 3), shapes={"length": LENGTHS})


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [*range(1, 10), 21])
def test_any_number_of_rows_gives_the_bytes_of_single_ones(images, rows, threads):
    several, one = images
    x = samples(np.random.default_rng(rows), rows)
    alone = ek.InferenceSession(one)
    wanted = [
        np.concatenate(parts)
        for parts in zip(*(alone.run(None, {"x": x[i : i + 1]}) for i in range(rows)), strict=True)
    ]
    session = ek.InferenceSession(several, num_threads=threads)
    same(wanted, session.run(None, {"x": x}))
    out = [np.full_like(y, np.nan) for y in wanted]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # what is strided is copied
        assert session.run(None, {"x": np.repeat(x, 2, axis=0)[::2]}, out=out)[0] is out[0]
    same(wanted, out)


def test_a_program_of_several_sizes_is_hardly_larger(images):
    several, one = images
    assert several.nbytes - one.nbytes < 6144
    assert sum(len(v.index.encode()) for v in several.variants) > 2 * (several.nbytes - one.nbytes)


@pytest.mark.parametrize("length", range(1, 17))
@pytest.mark.parametrize("pooled", [False, True])
def test_every_length_gives_the_bytes_of_its_own_program(length, pooled):
    model = encoder(pooled=pooled)
    session = ek.InferenceSession(ek.compile(model, batch=2, shapes={"length": LENGTHS}))
    alone = ek.InferenceSession(ek.compile(model, batch=2, shapes={"length": length}))
    for seed in range(3):
        feeds = text(2, length, seed)
        same(alone.run(None, feeds), session.run(None, feeds))


@given(rows=st.integers(1, 8), length=st.integers(1, 16), seed=st.integers(0, 99))
def test_two_dimensions_are_free_of_each_other(texts, rows, length, seed):
    feeds = text(rows, length, seed)
    session = ek.InferenceSession(texts)
    [y] = session.run(None, feeds)
    assert y.shape == (rows, length, 16)
    single = [session.run(None, {name: array[i : i + 1] for name, array in feeds.items()})[0] for i in range(rows)]
    same([np.concatenate(single)], [y])


def test_the_choice_is_told(texts):
    session = ek.InferenceSession(texts)
    assert [node.shape for node in session.get_inputs()] == [["batch", "length"]] * 2
    assert session.get_outputs()[0].shape == ["batch", "length", 16]
    assert session.choose(text(1, 4)) == [{"batch": 1, "length": 4}]
    assert session.choose(text(5, 5)) == [{"batch": 3, "length": 9}] * 2
    assert session.choose(text(4, 10)) == [{"batch": 3, "length": 16}, {"batch": 1, "length": 16}]
    told = texts.summary()
    assert "sizes: batch 1, 3, any number; length 4, 9, 16, and all below; above is batch 1, length 4" in told
    assert [len(one.steps) for one in texts.variants] == [len(texts.steps)] * 6


def test_sizes_share_one_arena_the_largest(images):
    several, _ = images
    largest = max(one.index.arena_bytes for one in several.variants)
    alone = [ek.InferenceSession(ek.compile(quantized_cnn(), batch=n)).arena_bytes for n in BATCHES]
    assert largest <= ek.InferenceSession(several).arena_bytes < alone[-1] + sum(alone) / 4


def test_weights_stored_as_halves_are_widened_once():
    g = Graph()
    x = g.input("x", ["N", 64])
    weights = g.rng.normal(size=(64, 512)).astype(np.float16)
    y = g.op("MatMul", g.op("Cast", x, to=TensorProto.FLOAT16), g.const(weights))
    model = g.model(g.op("Cast", y, to=TensorProto.FLOAT))
    one, several = ek.compile(model, batch=4), ek.compile(model, batch=BATCHES)
    grown = ek.InferenceSession(several).arena_bytes - ek.InferenceSession(one).arena_bytes
    assert grown < weights.size * 4
    x = np.random.default_rng(0).normal(size=(3, 64)).astype(np.float32)
    same(
        ek.InferenceSession(ek.compile(model, batch=3)).run(None, {"x": x}),
        ek.InferenceSession(several).run(None, {"x": x}),
    )


def test_sizes_of_images_that_strides_round_run_alone():
    g = Graph(opset=17)
    x = g.input("x", [1, 3, "H", "W"])
    model = g.model(
        g.op("Conv", x, g.const(g.rng.normal(size=(8, 3, 3, 3)), np.float32), strides=[2, 2], pads=[1, 1, 1, 1])
    )
    with pytest.warns(
        EdgekernWarning, match="H: dimension 2 of .* multiple of it; W: dimension 3 of output '.*' is no multiple of it"
    ):
        program = ek.compile(model, shapes={"x": (1, 3, (8, 13), (8, 13))})
    assert len(program.variants) == 4
    for height in (8, 13):
        for width in (8, 13):
            feeds = {"x": np.random.default_rng(0).normal(size=(1, 3, height, width)).astype(np.float32)}
            alone = ek.compile(model, shapes={"x": (1, 3, height, width)})
            same(ek.InferenceSession(alone).run(None, feeds), ek.InferenceSession(program).run(None, feeds))


def test_free_dimensions_without_a_name_and_with_the_same_sizes_are_one():
    g = Graph(opset=17)
    a, b = g.input("a", [1, "?"]), g.input("b", [1, "?"])
    program = ek.compile(g.model(g.op("Add", a, b)), shapes={"a": (1, (2, 4)), "b": (1, (2, 4))})
    assert [one.name for one in program.buckets.dimensions] == ["a[1]"]
    feeds = {"a": np.ones((1, 3), np.float32), "b": np.ones((1, 3), np.float32)}
    same([np.full((1, 3), 2, np.float32)], ek.InferenceSession(program).run(None, feeds))
    with pytest.raises(ArgumentValueError, match=r"input 'b' has 2 of 'a\[1\]', and input 'a' has 3"):
        ek.InferenceSession(program).run(None, {**feeds, "b": np.ones((1, 2), np.float32)})


def test_inputs_without_the_dimension_go_to_every_run():
    g = Graph(opset=17)
    x, by = g.input("x", ["N", 5]), g.input("by", [5])
    program = ek.compile(g.model(g.op("Mul", x, by)), batch=(2, 4), shapes={"by": (5,)})
    feeds = {"x": np.arange(55, dtype=np.float32).reshape(11, 5), "by": np.arange(5, dtype=np.float32)}
    same([feeds["x"] * feeds["by"]], ek.InferenceSession(program).run(None, feeds))


def test_host_steps_have_the_sizes_too():
    g = Graph(opset=17)
    x = g.input("x", ["N", 6, 6])
    model = g.model(g.op("Relu", g.op("Det", g.op("Sin", x))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        program, one = ek.compile(model, batch=BATCHES), ek.compile(model, batch=1)
    assert program.host_steps
    x = np.random.default_rng(0).normal(size=(7, 6, 6)).astype(np.float32)
    alone = ek.InferenceSession(one)
    wanted = np.concatenate([alone.run(None, {"x": x[i : i + 1]})[0] for i in range(7)])
    same([wanted], ek.InferenceSession(program).run(None, {"x": x}))
    with pytest.raises(EdgekernError, match="allow_host=False"):
        ek.InferenceSession(program, allow_host=False)


def test_it_travels_like_any_program(images, tmp_path):
    several, _ = images
    several.save(tmp_path / "cnn.ekm")
    x = samples(np.random.default_rng(0), 7)
    wanted = ek.InferenceSession(several).run(None, {"x": x})
    for again in (ek.Program.load(tmp_path / "cnn.ekm"), pickle.loads(pickle.dumps(several)), copy.deepcopy(several)):
        assert again == several
        same(wanted, ek.InferenceSession(again).run(None, {"x": x}))
    same(wanted, pickle.loads(pickle.dumps(ek.InferenceSession(tmp_path / "cnn.ekm"))).run(None, {"x": x}))


def test_a_profile_is_of_one_size(texts):
    session = ek.InferenceSession(texts)
    feeds = random_feeds(texts.variants[4].inputs)
    feeds["mask"][:] = 1
    assert len(session.profile(feeds, runs=2).steps) == len(texts.steps)
    with pytest.raises(ArgumentValueError, match=r"profile: 'length' is 5; give one of the sizes \[4, 9, 16\]"):
        session.profile(text(1, 5), runs=2)
    assert len(list(session.trace(text(1, 4)))) == len(texts.steps)


@pytest.mark.parametrize(
    ("options", "error", "told"),
    [
        ({"batch": ()}, ArgumentTypeError, "batch must be a size or a tuple of sizes"),
        ({"batch": "12"}, ArgumentTypeError, "batch must be an integer, got str"),
        ({"batch": (0, 2)}, ArgumentValueError, "batch has the size 0"),
        ({"batch": (1.5, 2)}, ArgumentTypeError, "batch must be an integer"),
        ({"batch": range(1, 66)}, ArgumentValueError, "batch has 65 sizes, and a file holds 64 programs"),
        ({"batch": range(1, 9), "shapes": {"x": (None, 3, range(12, 22), 12)}}, ArgumentValueError, "make 80 programs"),
        ({"batch": (1, 2), "shapes": [("x", 1)]}, ArgumentTypeError, "shapes must be a mapping"),
        ({"batch": (1, 2), "shapes": {"N": (1, 2)}}, ArgumentValueError, "batch and shapes\\['N'\\] both"),
        ({"batch": (1, 2), "pad": {"x": True}}, ArgumentTypeError, "pad"),
        ({"batch": (1, 2), "pad": {"x": 1e300}}, ArgumentValueError, "which float32 cannot hold"),
        ({"shapes": {"x": ((1, 2), 3, (12, 14), 12)}}, ArgumentValueError, "which is 12 in the model"),
        ({"shapes": {"y": (1, 2)}}, ArgumentValueError, "shapes has 'y', but the inputs are"),
        ({"batch": 2, "pad": {"x": 0}}, ArgumentValueError, "no dimension has several sizes"),
        ({"batch": (2, 2), "pad": {"x": 0}}, ArgumentValueError, "no dimension has several sizes"),
        ({"batch": (1, 2), "pad": {"y": 0}}, ArgumentValueError, "pad has 'y', but the inputs are"),
        ({"batch": (1, 2), "pad": {"x": "0"}}, ArgumentTypeError, "must be a number"),
        ({"batch": (1, 2), "pad": [0]}, ArgumentTypeError, "pad must be a mapping"),
        ({"batch": (1, 2), "shapes": {"N": 4}}, CompileError, "batch is 2, but the inputs have fixed shapes"),
    ],
)
def test_sizes_that_make_no_sense_are_refused(options, error, told):
    with pytest.raises(error, match=told):
        ek.compile(cnn(), **options)


@pytest.mark.parametrize(
    ("feeds", "error", "told"),
    [
        ({"ids": np.zeros((1, 4), np.int32)}, ArgumentTypeError, "input 'ids' must be int64, got int32"),
        ({"ids": np.zeros(4, np.int64)}, ArgumentValueError, r"must have shape \(batch, length\), got \(4,\)"),
        ({"ids": np.zeros((0, 4), np.int64), "mask": np.zeros((0, 4), np.int64)}, ArgumentValueError, "'batch' is 0"),
        (text(1, 17), ArgumentValueError, r"'length' is 17, and the program has the sizes \[4, 9, 16\]"),
        (
            {"mask": np.zeros((2, 4), np.int64)},
            ArgumentValueError,
            "input 'mask' has 2 of 'batch', and input 'ids' has 1",
        ),
    ],
)
def test_arrays_of_no_size_are_refused(texts, feeds, error, told):
    with pytest.raises(error, match=told):
        ek.InferenceSession(texts).run(None, {**text(1, 4), **feeds})


@pytest.mark.parametrize(
    ("out", "error", "told"),
    [
        (np.zeros((2, 5, 16), np.float64), ArgumentTypeError, "must be float32, got float64"),
        (np.zeros((2, 9, 16), np.float32), ArgumentValueError, r"must have shape \(2, 5, 16\), got \(2, 9, 16\)"),
    ],
)
def test_arrays_to_write_must_have_the_size(texts, out, error, told):
    with pytest.raises(error, match=told):
        ek.InferenceSession(texts).run(None, text(2, 5), out=[out])


def _rebuilt(program, *, manifest=None, blob=None):
    """A file whose hashes are right and whose second index is another."""
    manifest = manifest or program.manifest
    names = [variant.blob for variant in manifest.variants]
    content = [
        (entry.name, blob if blob is not None and entry.name == names[0] else program.container.stored(entry.name))
        for entry in program.index.blobs
    ]
    metadata = program.container.metadata | {"ekm.manifest": manifest.to_json()}
    return ek.artifact.container.build(program.index, content, metadata)


def test_the_index_of_another_size_is_held_to_the_first(images):
    several, one = images
    first, second = several.variants[:2]
    told = told_by(first.index, second.index)
    size = several.container.blobs.size
    assert index_of(first.index, told, size) == second.index
    other = ek.compile(cnn(), batch=2).index
    assert told_by(first.index, other)[:1] == b"\0"
    assert ek.Program.load(_rebuilt(several)) == several
    for wrong in (b"", b"\0" + told[1:], told + bytes(8), b"\0" + one.index.encode()):
        with pytest.raises(ArtifactError):
            index_of(first.index, wrong, size)
    third = told_by(first.index, several.variants[2].index)
    variants = [replace(several.manifest.variants[0], blob_bytes=len(third)), *several.manifest.variants[1:]]
    with pytest.raises(ArtifactError, match="have not the sizes that the manifest says"):
        ek.Program.load(_rebuilt(several, manifest=replace(several.manifest, variants=tuple(variants)), blob=third))


@pytest.mark.parametrize(
    "change", [("sizes", [1, 2, 5]), ("name", 3), ("padded", 1), ("sizes", [2, 1, 4]), ("sizes", [])]
)
def test_a_manifest_of_other_sizes_is_refused(images, change):
    several, _ = images
    fields = json.loads(several.manifest.to_json())
    fields["buckets"]["dimensions"][0][change[0]] = change[1]
    metadata = {"ekm.producer": several.index.producer, "ekm.manifest": json.dumps(fields, separators=(",", ":"))}
    blobs = [(entry.name, several.container.stored(entry.name)) for entry in several.index.blobs]
    with pytest.raises(ArtifactError):
        ek.Program.load(ek.artifact.container.build(several.index, blobs, metadata))


def test_a_session_shares_memory_with_its_like_alone(images):
    several, _ = images
    small, large = several.variants[0], several.variants[-1]
    data = several.container.blobs.data
    first = _core.Session(small.index, data)
    with pytest.raises(ArgumentValueError, match="wants an arena of"):
        _core.Session(large.index, data, arena_of=first)
    with pytest.raises(ArgumentValueError, match="has other blobs"):
        _core.Session(ek.compile(cnn()).index, ek.compile(cnn()).container.blobs.data, arena_of=first)


def test_the_command_line_takes_several_sizes(tmp_path):
    onnx.save(encoder(), tmp_path / "encoder.onnx")
    run = [sys.executable, "-c", "from edgekern.cli import main; main()"]
    made = [*run, "compile", str(tmp_path / "encoder.onnx"), "-o", str(tmp_path / "e.ekm"), "--batch", "1,2"]
    told = subprocess.run(
        [*made, "--shape", "length=4|16", "--pad", "mask=0"], capture_output=True, text=True, check=True
    )
    assert "sizes: batch 1, 2, any number; length 4, 16, and all below" in told.stdout
    np.savez(tmp_path / "x.npz", **text(11, 7))
    subprocess.run(
        [*run, "run", str(tmp_path / "e.ekm"), str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")],
        check=True,
        capture_output=True,
    )
    with np.load(tmp_path / "y.npz") as found:
        [y] = found.values()
    same(ek.InferenceSession(tmp_path / "e.ekm").run(None, text(11, 7)), [y])
    shown = subprocess.run(
        [*run, "inspect", str(tmp_path / "e.ekm")], capture_output=True, text=True, check=True
    ).stdout
    assert "batch 2, length 16: " in shown
    for wrong in (["--batch", "1;2"], ["--shape", "length=4|"], ["--pad", "mask"]):
        refused = subprocess.run([*made[:-2], *wrong], capture_output=True, text=True, check=False)
        assert (refused.returncode, "edgekern: error: compile: --" in refused.stderr) == (2, True)


@pytest.mark.parametrize("shift", [1, 2, -1])
def test_results_may_lie_where_inputs_do(shift):
    g = Graph(opset=17)
    x = g.input("x", ["N", 4])
    session = ek.InferenceSession(ek.compile(g.model(g.op("Add", x, g.const(1, np.float32))), batch=(1, 2)))
    room = np.arange(40, dtype=np.float32).reshape(10, 4)
    x, out = room[2:7], room[2 + shift : 7 + shift]
    wanted = x + 1
    session.run(None, {"x": x}, out=[out])
    same([wanted], [np.ascontiguousarray(out)])


def test_unnamed_dimensions_are_not_taken_for_others():
    g = Graph(opset=17)
    x = g.input("x", ["n", "?"])
    model = g.model(g.op("Relu", x))
    program = ek.compile(model, shapes={"x": ((2, 4), (2, 4))})
    assert [one.name for one in program.buckets.dimensions] == ["n", "x[1]"]
    program = ek.compile(model, batch=(2, 4), shapes={"x": (None, (2, 4))})
    assert [one.name for one in program.buckets.dimensions] == ["n", "x[1]"]


@pytest.mark.parametrize(("first", "second", "name"), [("n", "n", "n"), ("rows", 3, "rows"), ("?", "?", "batch")])
def test_rows_have_the_name_that_the_model_gives_them(first, second, name):
    g = Graph(opset=17)
    x, y = g.input("x", [first, 4]), g.input("y", [second, 4])
    model = g.model(g.op("Relu", x), g.op("Neg", y))
    program = ek.compile(model, batch=(1, 2))
    assert [one.name for one in program.buckets.dimensions] == [name]
    assert ek.InferenceSession(program).get_inputs()[0].shape == [name, 4]
    session = ek.InferenceSession(program)
    feeds = {"x": np.ones((2, 4), np.float32), "y": np.ones((2 if second != 3 else 3, 4), np.float32)}
    assert session.choose(feeds) == [{name: 2}]


def test_the_command_line_cuts_rows_alone(tmp_path):
    g = Graph(opset=17)
    x = g.input("x", ["seq", 1, 3])
    weights = [g.const(g.rng.normal(size=shape), np.float32) for shape in ((1, 16, 3), (1, 16, 4))]
    y = g.op("LSTM", x, *weights, outputs=3, hidden_size=4)
    program = ek.compile(g.model(y[0]), shapes={"seq": (16, 32)})
    program.save(tmp_path / "lstm.ekm")
    x = np.random.default_rng(0).normal(size=(20, 1, 3)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    command = [sys.executable, "-c", "from edgekern.cli import main; main()", "run", str(tmp_path / "lstm.ekm")]
    subprocess.run([*command, str(tmp_path / "x.npy"), "-o", str(tmp_path / "y.npz")], check=True, capture_output=True)
    with np.load(tmp_path / "y.npz") as found:
        same(ek.InferenceSession(program).run(None, {"x": x}), list(found.values()))
