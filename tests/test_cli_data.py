"""Commands read pictures and other files as the model says that its calibration read them."""

import contextlib
import json

import numpy as np
import pytest
from onnx import TensorProto, helper, load, numpy_helper, save

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.artifact.manifest import QUANTIZATION_KEY
from edgekern.cli.sources import DataOptions, as_ranges
from test_cli import _without_toolkit

Image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")

SAID = "edgekern: data is read as the model says: image: "


@pytest.fixture(scope="module")
def pictured(tmp_path_factory):
    """A folder with pictures of digits in folders of their classes, ranges of them, a QDQ model, a program."""
    folder = tmp_path_factory.mktemp("pictured")
    train, _ = quickstart.load_digits()
    peak = float(train.images.max())
    for number, (image, label) in enumerate(zip(train.images[:24], train.labels[:24], strict=True)):
        place = folder / "digits" / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.rint(image[0] / peak * 255).astype(np.uint8)).save(place / f"{number}.png")
    model, ranges = str(quickstart.MODEL), str(folder / "r.json")
    scale = str(peak / 255)
    assert cli.run(["calibrate", model, str(folder / "digits"), "-o", ranges, "--scale", scale]) == 0
    assert cli.run(["quantize", model, ranges, "-o", str(folder / "q.onnx")]) == 0
    assert cli.run(["compile", str(folder / "q.onnx"), "-o", str(folder / "m.ekm")]) == 0
    return folder


def test_a_program_carries_how_its_data_was_made(pictured, capsys):
    made = ek.calibration.Ranges.load(pictured / "r.json").preprocessing
    program = pictured / "m.ekm"
    assert made is not None
    assert ek.Program.load(program).preprocessing == made
    for command in (["inspect"], ["verify"]):
        assert cli.run([*command, str(program)]) == 0
        shown = capsys.readouterr().out
        assert all(f"{name} {made[name]}" in shown for name in ("size", "crop", "scale", "channels"))
    assert cli.run(["inspect", str(program), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"] == made


@pytest.mark.parametrize(
    "said", [{"crop": "8"}, {"std": "2"}, {"scale": 0.5}, {"channels": "BGR"}, {"preset": "unit"}, {"max_length": 4}]
)
def test_what_options_say_is_not_mixed_with_what_ranges_say(pictured, said):
    ranges = pictured / "r.json"
    assert as_ranges(DataOptions(limit=3), ranges) == DataOptions(limit=3, preprocessing=ranges)
    assert as_ranges(DataOptions(limit=3, **said), ranges) == DataOptions(limit=3, **said)


def test_run_takes_pictures(pictured, tmp_path, capsys):
    program, output = pictured / "m.ekm", tmp_path / "o.npz"
    assert cli.run(["run", str(program), str(pictured / "digits"), "-o", str(output), "--samples", "5"]) == 0
    assert SAID in capsys.readouterr().err
    session = ek.InferenceSession(program)
    data = ek.samples(pictured / "digits", session, preprocessing=session.program.preprocessing, limit=5)
    with np.load(output) as outputs:
        assert np.array_equal(outputs["logits"], np.concatenate([session.run(None, one)[0] for one in data]))


@pytest.mark.parametrize("model", ["m.ekm", "q.onnx"])
def test_evaluate_needs_no_preprocessing_of_them(pictured, capsys, model):
    command = ["evaluate", str(pictured / model), str(pictured / "digits"), "--labels", "folders", "--json"]
    assert cli.run(command) == 0
    told = capsys.readouterr()
    assert SAID in told.err
    assert cli.run([*command, "--preprocessing", str(pictured / "r.json")]) == 0
    again = capsys.readouterr()
    assert SAID not in again.err
    assert json.loads(again.out) == json.loads(told.out)
    assert cli.run([*command, "--preset", "symmetric"]) == 0
    other = capsys.readouterr()
    assert SAID not in other.err
    assert json.loads(other.out)["preprocessing"]["mean"] == [127.5]  # and nothing of the program's beside it


@pytest.mark.parametrize(
    "command",
    [
        ["compare", str(quickstart.MODEL), "m.ekm", "digits"],
        ["profile", "m.ekm", "digits", "--runs", "3"],
        ["bench", "m.ekm", "digits", "--runs", "6", "--threads", "1"],
        ["bench", "q.onnx", "digits", "--runs", "6", "--threads", "1"],
    ],
)
def test_commands_on_programs_take_pictures(pictured, capsys, command):
    given = [str(pictured / word) if (pictured / word).exists() else word for word in command]
    assert cli.run(given) == 0
    assert SAID in capsys.readouterr().err


def test_arrays_are_read_as_they_are(pictured, tmp_path, capsys):
    np.save(tmp_path / "one.npy", np.zeros((1, 1, 8, 8), np.float32))
    assert cli.run(["run", str(pictured / "m.ekm"), str(tmp_path / "one.npy")]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("option", [["--samples", "1"], ["--preset", "unit"], ["--size", "8"]])
def test_arrays_have_no_options_of_pictures(pictured, tmp_path, capsys, option):
    np.save(tmp_path / "two.npy", np.zeros((2, 1, 8, 8), np.float32))
    for command in ("run", "profile", "bench")[: 1 if option[0] == "--samples" else 3]:
        assert cli.run([command, str(pictured / "m.ekm"), str(tmp_path / "two.npy"), *option]) == 2
        assert f"samples: {option[0]} is no option of arrays" in capsys.readouterr().err


def test_raw_numbers_need_nobody_to_say_anything(pictured, tmp_path, capsys):
    rows = np.random.default_rng(1).random((3, 1, 8, 8), np.float32)
    rows.tofile(tmp_path / "three.bin")
    output = tmp_path / "o.npz"
    assert cli.run(["run", str(pictured / "m.ekm"), str(tmp_path / "three.bin"), "-o", str(output)]) == 0
    assert SAID not in capsys.readouterr().err
    session = ek.InferenceSession(pictured / "m.ekm")
    with np.load(output) as outputs:
        assert np.array_equal(
            outputs["logits"], np.concatenate([session.run(None, {"image": r[None]})[0] for r in rows])
        )


def test_several_sizes_take_pictures_in_the_largest(pictured, tmp_path):
    program = ek.compile(str(pictured / "q.onnx"), batch=(1, 4))
    program.save(tmp_path / "sizes.ekm")
    output = tmp_path / "o.npz"
    assert cli.run(["run", str(tmp_path / "sizes.ekm"), str(pictured / "digits"), "-o", str(output)]) == 0
    assert cli.run(["profile", str(tmp_path / "sizes.ekm"), str(pictured / "digits"), "--runs", "2"]) == 0
    with np.load(output) as outputs:
        assert outputs["logits"].shape == (24, 10)


def test_inspect_tells_sizes_and_arenas_to_programs(pictured, tmp_path, capsys):
    program = ek.compile(str(pictured / "q.onnx"), batch=(1, 4))
    program.save(tmp_path / "sizes.ekm")
    assert cli.run(["inspect", str(tmp_path / "sizes.ekm"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    [rows] = program.buckets.dimensions
    arenas = [one.index.arena_bytes for one in program.variants]
    assert told["sizes"] == [{"of": {rows.name: n}, "arena_bytes": a} for n, a in zip((1, 4), arenas, strict=True)]
    assert (told["arena_bytes"], told["bytes"]) == (max(arenas), program.nbytes)
    assert cli.run(["inspect", str(pictured / "m.ekm"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sizes"] == []


def test_the_base_install_reads_pictures_where_pillow_is(pictured):
    child = _without_toolkit("run", str(pictured / "m.ekm"), str(pictured / "digits"))
    assert child.returncode == 0, child.stderr
    assert SAID in child.stderr


@pytest.mark.parametrize(
    "change",
    [
        {"mean": "abc"},
        {"mean": {"a": 1}},
        {"mean": [[1]]},
        {"scale": []},
        {"scale": "x"},
        {"size": 2.5},
        {"size": [8, "8"]},
        {"size": 10**9},
        {"crop": [8, 8, 8]},
        {"crop": True},
        {"channels": ["RGB"]},
        {"layout": 3},
        {"resample": []},
        {"std": [0]},
    ],
)
def test_what_a_stranger_wrote_there_is_one_readable_line(pictured, tmp_path, capsys, change):
    model = load(pictured / "q.onnx")
    [entry] = [one for one in model.metadata_props if one.key == QUANTIZATION_KEY]
    said = json.loads(entry.value)
    said["preprocessing"] |= change
    entry.value = json.dumps(said)
    ek.compile(model).save(tmp_path / "m.ekm")
    assert cli.run(["run", str(tmp_path / "m.ekm"), str(pictured / "digits")]) == 2
    [*_, line] = capsys.readouterr().err.splitlines()
    assert line.startswith("edgekern: error: samples: ")


@pytest.mark.parametrize("preprocessing", [[], 3, {"kind": ["image"]}, {"kind": None}, {}])
def test_what_is_no_preprocessing_is_none(pictured, tmp_path, capsys, preprocessing):
    model = load(pictured / "q.onnx")
    [entry] = [one for one in model.metadata_props if one.key == QUANTIZATION_KEY]
    entry.value = json.dumps(json.loads(entry.value) | {"preprocessing": preprocessing})
    ek.compile(model).save(tmp_path / "m.ekm")
    assert cli.run(["inspect", str(tmp_path / "m.ekm")]) == 0
    assert cli.run(["run", str(tmp_path / "m.ekm"), str(pictured / "digits")]) == 2
    assert "nothing says how pixels" in capsys.readouterr().err


@pytest.fixture
def worded(tmp_path):
    """A model of words and a program of it for six of them, its tokenizer, ranges and texts."""
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[PAD]": 3, "a": 0, "b": 1, "c": 2}, unk_token="c"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(pad_id=3, pad_token="[PAD]")
    made.save(str(tmp_path / "tokenizer.json"))
    rng = np.random.default_rng(0)
    weights = {"table": rng.normal(size=(4, 16)), "w": rng.normal(size=(16, 8))}
    nodes = [helper.make_node("Gather", ["table", "input_ids"], ["x"]), helper.make_node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "words",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "seq"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", "seq", 8])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "f.onnx")
    (tmp_path / "t.txt").write_text("a b c\nb\na a a a a a a a\n")
    words = ["f.onnx", "t.txt", "-o", "r.json", "--tokenizer", "tokenizer.json", "--max-length", "8"]
    with contextlib.chdir(tmp_path):
        assert cli.run(["calibrate", *words]) == 0
        assert cli.run(["quantize", "f.onnx", "-o", "q.onnx", "--recipe", "w8a8-dynamic"]) == 0
        assert cli.run(["compile", "q.onnx", "-o", "m.ekm", "--shape", "seq=6"]) == 0
    return tmp_path


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (["compare", "f.onnx", "m.ekm", "t.txt"], "on 3 feeds"),  # filled up, and cut, to the program's six
        (["sensitivity", "f.onnx", "r.json", "t.txt", "--max-length", "5"], "all together"),
        (["coverage", "f.onnx", "r.json", "t.txt"], "3 samples against ranges"),
    ],
)
def test_what_8_bits_cost_is_told_on_texts(worded, monkeypatch, capsys, command, told):
    monkeypatch.chdir(worded)
    assert cli.run(command) == 2
    assert "give tokenizer (--tokenizer)" in capsys.readouterr().err
    assert cli.run([*command, "--tokenizer", "tokenizer.json"]) == 0
    assert told in capsys.readouterr().out


def test_quantize_rounds_by_samples_of_data_or_of_a_checkpoint(tmp_path, capsys):
    """What the digits' ranges were calibrated on, as arrays, and as the file of that calibration has them."""
    train, _ = quickstart.load_digits()
    np.savez(tmp_path / "train.npz", image=train.images[:64])
    model, ranges, checkpoint = str(quickstart.MODEL), str(tmp_path / "ranges.json"), str(tmp_path / "state.npz")
    calibrate = ["calibrate", model, str(tmp_path / "train.npz"), "-o", ranges, "--checkpoint", checkpoint]
    assert cli.run([*calibrate[:-1], ranges]) == 2
    assert "write to two files" in capsys.readouterr().err
    assert cli.run([*calibrate, "--method", "max"]) == 0
    command = ["quantize", model, ranges, "--recipe", "w4a8", "--rounding", "gptq", "-o"]
    by_data, by_checkpoint = str(tmp_path / "data.onnx"), str(tmp_path / "checkpoint.onnx")
    assert cli.run([*command, by_data, "--data", str(tmp_path / "train.npz")]) == 0
    assert cli.run([*command, by_checkpoint, "--checkpoint", checkpoint]) == 0
    assert "by w4a8" in capsys.readouterr().out
    assert cli.run([*command, str(tmp_path / "none.onnx")]) != 0
    assert "samples must be given" in capsys.readouterr().err
    both = ["--data", str(tmp_path / "train.npz"), "--checkpoint", checkpoint]
    assert cli.run([*command, str(tmp_path / "none.onnx"), *both]) != 0
    assert "leave one of them out" in capsys.readouterr().err
    plain = ["quantize", model, ranges, "-o", str(tmp_path / "none.onnx"), "--data", str(tmp_path / "train.npz")]
    assert cli.run(plain) != 0
    assert "are for roundings gptq and adaround" in capsys.readouterr().err
