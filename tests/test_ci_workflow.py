"""The workflow in docs/ci-workflow.yml: its commands run on a small model, and stop where a gate fails."""

import shlex
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli

from calibrator_models import onnx, small_cnn

onnxruntime = pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")
image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")
WORKFLOW = Path(__file__).parent.parent / "docs" / "ci-workflow.yml"


def commands():
    """Of ``run:``, folded where they are; pyyaml is no dependency of the tests."""
    lines, found = WORKFLOW.read_text().splitlines(), []
    for at, line in enumerate(lines):
        key, _, rest = line.partition("run: ")
        if key.strip():
            continue
        if rest and rest != ">":
            found.append(rest)
        elif rest == ">":
            depth = len(line) - len(line.lstrip())
            folded = []
            for each in lines[at + 1 :]:
                if len(each) - len(each.lstrip()) <= depth:
                    break
                folded.append(each.strip())
            found.append(" ".join(folded))
    return [shlex.split(command, comments=True) for command in found]


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """What the workflow finds: a model, photos, and labels that its float model gives."""
    model = small_cnn()
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = 8
    onnx.save(model, tmp_path / "model.onnx")
    rng = np.random.default_rng(0)
    for folder, count in (("calibrate", 12), ("photos", 20)):
        (tmp_path / folder).mkdir()
        for at in range(count):
            pixels = rng.integers(0, 256, (8, 8, 3), np.uint8) // (1 + at % 3)
            image.fromarray(pixels.astype(np.uint8)).save(tmp_path / folder / f"{folder}{at}.jpg", quality=95)
    names = sorted(path.name for path in (tmp_path / "photos").iterdir())
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    read = ek.samples(tmp_path / "photos", tmp_path / "model.onnx", preset="unit")
    answers = np.concatenate([session.run(None, dict(feeds))[0].argmax(1) for feeds in read])
    rows = [f"{name},{answer}" for name, answer in zip(names, answers, strict=True)]
    (tmp_path / "labels.csv").write_text("\n".join(["file,label", *rows]))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ours():
    return [command[1:] for command in commands() if command[0] == "edgekern"]


def test_it_installs_compresses_validates_verifies_and_uploads():
    assert [command[:2] for command in commands()] == [
        ["pip", "install"],
        ["edgekern", "compress"],
        ["edgekern", "validate"],
        ["edgekern", "verify"],
    ]
    text = WORKFLOW.read_text()
    assert "actions/upload-artifact" in text
    for kept in ("model.ekm", "report.json"):
        assert kept in text


def test_its_yaml_is_sound():
    yaml = pytest.importorskip("yaml", reason="needs pyyaml")
    job = yaml.safe_load(WORKFLOW.read_text())["jobs"]["compress"]
    assert [shlex.split(step["run"], comments=True) for step in job["steps"] if "run" in step] == commands()


def test_its_commands_run(repository):
    for command in ours():
        assert cli.run(command) == 0, command
    assert (repository / "model.ekm").exists()
    assert (repository / "report.json").exists()


def test_a_gate_that_fails_stops_it(repository):
    compress = [{"0.9": "1", "1M": "1K"}.get(word, word) for word in ours()[0]]
    assert cli.run(compress) == 1
    assert not (repository / "model.ekm").exists()
    assert (repository / "report.json").exists()
