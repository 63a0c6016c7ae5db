"""Odd data on the command line: damaged arrays, labels that are none, names that are no text; one line each."""

import io
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.errors import ArgumentTypeError, ArgumentValueError

MODEL = str(quickstart.MODEL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    train, _ = quickstart.load_digits()
    np.save(folder / "x.npy", train.images[:16])
    calibrator = ek.Calibrator(MODEL, progress=False).collect({"image": train.images[:64]})
    ranges = calibrator.compute_ranges()
    ranges.save(folder / "r.json")
    ek.compile(ek.quantize(MODEL, ranges)).save(folder / "m.ekm")
    return folder


def header(shape: str) -> bytes:
    """A .npy of float32 whose header says this shape, and nothing behind it."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + b"0" * 100


def saved(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


IMAGES = (4, 1, 8, 8)
DATA = {
    "negative": header("(-4, 1, 8, 8)"),
    "huge": header("(999999999999, 1, 8, 8)"),
    "cut": saved(np.zeros(IMAGES, np.float32))[:900],
    "float64": saved(np.zeros(IMAGES)),
    "big-endian": saved(np.ones(IMAGES, ">f4")),
    "complex": saved(np.zeros(IMAGES, np.complex64)),
    "text": saved(np.array(["a"])),
    "fields": saved(np.zeros(4, [("a", "f4")])),
    "another shape": saved(np.zeros((4, 1, 9, 8), np.float32)),
    "one number": saved(np.float32(3)),
    "no rows": saved(np.zeros((0, 1, 8, 8), np.float32)),
}
COMMANDS = {
    "evaluate": ["m.ekm", "DATA", "--vs", MODEL],
    "compare": [MODEL, "m.ekm", "DATA"],
    "sensitivity": [MODEL, "r.json", "DATA"],
    "coverage": [MODEL, "r.json", "DATA"],
    "calibration-set": ["DATA", "--model", MODEL, "-o", "out.bin"],
    "run": ["m.ekm", "DATA"],
}


@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("command", COMMANDS)
def test_data_that_fits_nothing_is_one_line(folder, tmp_path, capsys, monkeypatch, command, kind):
    (tmp_path / "DATA").with_suffix(".npy").write_bytes(DATA[kind])
    for name in ("m.ekm", "r.json"):
        shutil.copy(folder / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = [word.replace("DATA", "DATA.npy") for word in COMMANDS[command]]
    assert cli.run([command, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("edgekern: error: ")
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (saved(np.full(16, 2**63, np.uint64)), "labels must be numbers of classes, got 9223372036854775808"),
        (saved(np.zeros(16)), "labels must be one integer for each of 16 samples"),
        (saved(np.zeros(15, int)), "labels must be one integer for each of 16 samples"),
        (saved(np.zeros(16, int))[:40], "is no .npy file of labels"),
    ],
)
def test_labels_that_are_none_are_one_line(folder, tmp_path, capsys, labels, message):
    (tmp_path / "y.npy").write_bytes(labels)
    command = ["evaluate", str(folder / "m.ekm"), str(folder / "x.npy"), "--labels", str(tmp_path / "y.npy")]
    assert cli.run(command) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("offset", [2**63, -(2**70), 2**31])
def test_an_offset_that_no_class_has_is_refused(folder, tmp_path, capsys, offset):
    np.save(tmp_path / "y.npy", np.zeros(16, int))
    command = ["evaluate", str(folder / "m.ekm"), str(folder / "x.npy"), "--labels", str(tmp_path / "y.npy")]
    assert cli.run([*command, f"--label-offset={offset}"]) == 2
    assert "label_offset must fit into 32 bits" in capsys.readouterr().err


def test_a_csv_or_a_folder_may_hold_any_number(tmp_path):
    Image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")
    huge = "9" * 30
    for name in (huge, "3"):
        (tmp_path / name).mkdir()
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / name / "a.png")
    inputs = {"x": (None, 1, 8, 8)}
    assert ek.samples(tmp_path, inputs, scale=1.0, labels="folders").labels.tolist() == [0, 1]  # names, then
    (tmp_path / "y.csv").write_text(f"file,label\n{huge}/a.png,{huge}\n3/a.png,3\n")
    with pytest.raises(ArgumentValueError, match="row 2 must hold a file and its class number"):
        ek.samples([tmp_path / huge, tmp_path / "3"], inputs, scale=1.0, labels=tmp_path / "y.csv")


@pytest.mark.parametrize("form", ["calib_set", "bin", "npz", "input_list"])
def test_an_output_without_a_name_is_refused(folder, capsys, form):
    command = ["calibration-set", str(folder / "x.npy"), "--model", MODEL, "-o", "", "--form", form]
    assert cli.run(command) == 2
    assert "output must be the name of a file or folder" in capsys.readouterr().err


def test_a_calibration_set_fits_the_model(folder, tmp_path):
    from edgekern.calibration.sources.inputs import inputs_of
    from edgekern.calibration.sources.writers import write_samples

    inputs = inputs_of(MODEL)
    for array, error in (
        (np.zeros(IMAGES), ArgumentTypeError),
        (np.zeros((4, 1, 8, 9), np.float32), ArgumentValueError),
        (np.zeros((4, 64), np.float32), ArgumentValueError),
    ):
        np.save(tmp_path / "x.npy", array)
        read = ek.samples(tmp_path / "x.npy", MODEL)
        with pytest.raises(error, match="calibration-set: samples of input 'image' must"):
            write_samples(read, tmp_path / "out.bin", "calib_set", model=inputs)
    assert write_samples(ek.samples(folder / "x.npy", MODEL), tmp_path / "out.bin", "calib_set", model=inputs) == 16


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS takes names of UTF-8 alone")
def test_names_of_files_need_be_no_text(folder, tmp_path):
    names = {
        name: os.fsdecode(os.fsencode(tmp_path) + b"/\xe9" + name.encode()) for name in ("x.npy", "m.ekm", "r.json")
    }
    for name, odd in names.items():
        shutil.copy(folder / name, odd)
    ek.InferenceSession(names["m.ekm"])
    with pytest.raises(ek.errors.ArtifactError):
        ek.Program.load(names["x.npy"])
    for command in (
        ["evaluate", names["m.ekm"], names["x.npy"], "--vs", MODEL],
        ["compare", MODEL, names["m.ekm"], names["x.npy"]],
        ["coverage", MODEL, names["r.json"], names["x.npy"]],
        ["inspect", names["m.ekm"]],
    ):
        script = "import sys; from edgekern import cli; sys.exit(cli.run(sys.argv[1:]))"
        child = subprocess.run([sys.executable, "-c", script, *command], capture_output=True, check=False)
        assert child.returncode == 0, child.stderr


@pytest.mark.parametrize("option", ["--scale", "--mean", "--std"])
@pytest.mark.parametrize("value", ["nan", "inf", "1e400"])
def test_pixels_become_finite_numbers(tmp_path, capsys, option, value):
    Image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "a.png")
    command = ["calibration-set", str(tmp_path), "--model", MODEL, "-o", str(tmp_path / "out.bin"), f"{option}={value}"]
    assert cli.run(command) == 2
    assert f"samples: {option[2:]} must be finite" in capsys.readouterr().err


def test_a_described_set_is_what_was_written(folder, tmp_path):
    command = ["calibration-set", str(folder / "x.npy"), "--model", MODEL, "-o", str(tmp_path / "set.bin")]
    assert cli.run(command) == 0
    assert json.loads((tmp_path / "set.bin.json").read_text())["samples"] == 16
    assert (tmp_path / "set.bin").read_bytes() == np.load(folder / "x.npy").tobytes()
