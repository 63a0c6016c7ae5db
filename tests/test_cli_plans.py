"""search, quantize --apply and quantize-to, on the command line."""

import json

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.quantization import plan_of

pytest.importorskip("typer", reason="needs edgekern[toolkit]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ranges, arrays and labels of the digits."""
    made = tmp_path_factory.mktemp("plans")
    train, _ = quickstart.load_digits()
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(train.feeds(batch=64))
    calibrator.compute_ranges(method="max").save(made / "r.json")
    np.savez(made / "x.npz", image=train.images[:64])
    np.save(made / "labels.npy", train.labels[:64])
    return made


@pytest.fixture
def here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    return folder


MODEL = str(quickstart.MODEL)


def test_a_plan_is_searched_edited_and_applied(here, capsys):
    assert cli.run(["search", MODEL, "r.json", "x.npz", "-o", "plan.json", "--max-bits", "20", "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["kind"] == "bits"
    assert "within the budget of 20" in said.err
    text = (here / "plan.json").read_text()
    assert ek.Plan.load(here / "plan.json").counts()
    edited = json.loads(text)
    edited["layers"][0]["recipe"] = "float32"
    (here / "edited.json").write_text(json.dumps(edited))
    assert cli.run(["quantize", MODEL, "r.json", "-o", "q.onnx", "--apply", "edited.json", "--plan"]) == 0
    assert "float32" in capsys.readouterr().out
    wanted = {row["node"]: row["recipe"] for row in edited["layers"]}
    found = plan_of(here / "q.onnx").choices
    assert {choice.node: choice.recipe for choice in found} == {choice.node: wanted[choice.node] for choice in found}
    assert found[0].recipe == "float32"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["search", MODEL, "r.json", "x.npz", "-o", "p.json"], "exactly one budget must be given"),
        (["search", MODEL, "r.json", "x.npz", "-o", "p.json", "--max-ms", "soon"], "--max-ms takes a time"),
        (["search", MODEL, "r.json", "x.npz", "-o", "r.json", "--max-bits", "8"], "r.json"),
        (["search", MODEL, "r.json", "x.npz", "-o", "p.json", "--max-bits", "1"], "max_bits must be at least 4"),
        (["quantize", MODEL, "r.json", "-o", "q2.onnx", "--apply", "r.json"], "is not a version 1 plan"),
        (["quantize", MODEL, "r.json", "-o", "q2.onnx", "--apply", "other.json"], "plan is of another model"),
        (["quantize", MODEL, "r.json", "-o", "q2.onnx", "--apply", "other.json", "--recipe", "w8a8"], "--apply"),
        (["quantize-to", MODEL, "r.json", "x.npz", "-o", "q2.onnx", "--max-drop", "0.1"], "labels must be given"),
    ],
)
def test_what_cannot_be_done_is_2(here, capsys, arguments, said):
    ek.Plan((), model_hash="0" * 64).save(here / "other.json")
    assert cli.run(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (here / "p.json").exists()
    assert not (here / "q2.onnx").exists()


def test_samples_and_labels_are_never_replaced(here, capsys):
    (here / "seen.npz").write_bytes(b"for --checkpoint")
    by_samples = ["quantize", MODEL, "r.json", "--rounding", "gptq"]
    for out, command in {
        "x.npz": [*by_samples, "--data", "x.npz"],
        "seen.npz": [*by_samples, "--checkpoint", "seen.npz"],
        "labels.npy": ["quantize-to", MODEL, "r.json", "x.npz", "--max-drop", "0.5", "--labels", "labels.npy"],
    }.items():
        before = (here / out).read_bytes()
        assert cli.run([*command, "-o", out]) == 2
        assert "is the input" in capsys.readouterr().err
        assert (here / out).read_bytes() == before


@pytest.mark.filterwarnings("always")
def test_a_model_is_quantized_to_a_drop_or_not_at_all(here, capsys):
    told = ["quantize-to", MODEL, "r.json", "x.npz", "-o", "to.onnx", "--labels", "labels.npy", "--plan", "to.json"]
    assert cli.run([*told, "--max-drop", "0.05"]) == 0
    assert "within the drop of 0.05" in capsys.readouterr().out
    assert (here / "to.onnx").exists()
    (here / "to.onnx").unlink()
    assert cli.run([*told, "--max-drop", "-0.5", "--put-back", "0"]) == 1  # nothing gains so much
    said = capsys.readouterr()
    assert "was not written" in said.out
    assert "more than max_drop=-0.5, with all layers in float32; allow more" in said.err
    assert not (here / "to.onnx").exists()
    assert set(ek.Plan.load(here / "to.json").counts()) == {"float32"}
