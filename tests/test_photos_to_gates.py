"""docs/from-photos-to-a-gated-model.md: its commands run as they stand there, on a tenth of the photos."""

import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgekern import cli

pytest.importorskip("PIL.Image", reason="needs edgekern[images]")
pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")

DOC = Path(__file__).parent.parent / "docs" / "from-photos-to-a-gated-model.md"
EVERY = 10  # photo of the 500

# What stands in the doc and is printed on any photos; numbers that differ by photo are left out of these lines.
HELD = {
    "inspect": [
        "100 nodes, which would be 55 steps and 0 of the host",
        "operator node runs in MACs 8 bits float32 host why",
    ],
    "calibrate": [
        "ranges.json: 101 ranges by ",
        "image: size 256, crop [224, 224], scale 1.0, mean [127.5, 127.5, 127.5]",
    ],
    "coverage": [
        "tensor lo hi seen lo seen hi outside at calibration step moved",
        "of 101 tensors have 0.1 % more outside than at calibration",
    ],
    "quantize": ["336 nodes; products: 53 by w8a8"],
    "sensitivity": ["layer operator SQNR dB KL MSE/var share", "and 44 layers less sensitive", "seen at the outputs"],
    "compile": [
        "100 operators in 55 steps, fused 35 Clip, 10 Add",
        "step operators path output MACs offset",
        "model.ekm: ",
    ],
    "compare": ["layer operators path SQNR dB cosine max error MSE own dB clipped recommendation", "worst first; own:"],
    "evaluate": ["top-1 ", "top-5 ", "same highest score as float: "],
    "validate": ["model.ekm:", "gate limit measured of what", "size of the .ekm"],
}
# A figure in what a command prints, and how far it may be from the doc's: by share, or as it is. Forty photos stand for
# four hundred: of shares 15 points, of noise 3 dB.
FIGURES = {
    "quantize": [(r"qdq.onnx: (\d+) bytes", 0.01, 0)],
    "compile": [(r"model.ekm: (\d+) bytes", 0.01, 0), (r"arena ([\d,]+) bytes", 0, 0)],
    "sensitivity": [(r"all together ([\d.]+) dB", 0, 3)],
    "evaluate": [(r"top-1 ([\d.]+)% float", 0, 15), (r"as float: ([\d.]+)%", 0, 15)],
    "validate": [(r"SQNR at least 18.00 dB ([\d.]+) dB", 0, 3), (r"file at most [\d,]+ bytes ([\d,]+) bytes", 0.01, 0)],
}


@dataclass(frozen=True)
class Told:
    """A command of the doc, and what stands below it."""

    command: str
    shown: str


def transcript():
    found = []
    for block in re.findall(r"```console\n(.*?)```", DOC.read_text(), re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, shown = part.partition("\n")
            found.append(Told(command, plain(shown)))
    return found


def plain(text):
    return "\n".join(" ".join(line.split()) for line in text.splitlines())


def figure(pattern, text):
    found = re.search(pattern, text)
    return None if found is None else float(found[1].replace(",", ""))


@pytest.fixture
def folder(test_data, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    for photo in sorted((test_data / "imagenet" / "images").glob("*.jpg"))[::EVERY]:
        (tmp_path / "photos" / photo.name).symlink_to(photo)
    shutil.copy(test_data / "imagenet" / "labels.csv", tmp_path)
    (tmp_path / "model.onnx").symlink_to(test_data / "cnn" / "mobilenetv2_1.0_224.onnx")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.filterwarnings("always::edgekern.errors.EdgekernWarning")  # which the commands print
def test_the_hour_goes_as_it_is_told(folder, capsys):
    status, ran = 0, set()
    for told in transcript():
        name, *rest = shlex.split(told.command) if "$(" not in told.command else ["mv"]
        if told.command == "echo $?":
            assert told.shown == str(status)
            continue
        if name != "edgekern":
            done = subprocess.run(told.command, shell=True, capture_output=True, text=True, check=True)
            assert plain(done.stdout) == told.shown
            continue
        status = cli.run(rest)
        printed = plain(capsys.readouterr().out)
        ran.add(rest[0])
        assert status == int("FAILED" in told.shown), (told.command, printed)
        for line in HELD[rest[0]]:
            assert line in told.shown, (told.command, line)
            assert line in printed, (told.command, line)
        for pattern, share, points in FIGURES.get(rest[0], ()):
            wanted, found = figure(pattern, told.shown), figure(pattern, printed)
            assert (wanted is None) is (found is None), (told.command, pattern)
            if wanted is not None:
                assert found == pytest.approx(wanted, rel=share, abs=points), (told.command, pattern)
    assert ran == set(HELD)
    assert {path.name for path in folder.iterdir()} >= {"ranges.json", "qdq.onnx", "model.ekm", "calibrate"}


def test_every_command_of_the_doc_is_one_of_ours():
    """Where there is no data, at least the options are known."""
    import typer

    from edgekern.cli.app import app

    known = typer.main.get_command(app).commands
    commands = [shlex.split(told.command) for told in transcript() if told.command.startswith("edgekern ")]
    assert len(commands) >= 9
    for _, name, *rest in commands:
        options = {option for parameter in known[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("-")} <= options, name
