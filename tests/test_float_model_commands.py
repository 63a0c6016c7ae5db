"""Commands from float model to float model: they write what the functions give."""

import numpy as np
import onnx
import pytest

pytest.importorskip("typer", reason="needs edgekern[toolkit]")

import edgekern as ek
import transformers
from edgekern import cli
from test_smooth import fed, outlying


@pytest.fixture
def given(tmp_path):
    model, samples = outlying(), fed(outlying())
    onnx.save(model, tmp_path / "m.onnx")
    for at, feeds in enumerate(samples):
        np.savez(tmp_path / f"{at}.npz", **feeds)
    return tmp_path, model, samples


COMMANDS = {
    "equalize": lambda model, samples: ek.equalize(model, samples),
    "smooth --alpha auto": lambda model, samples: ek.smooth(model, samples, alpha="auto"),
    "smooth --alpha 0.7 --insert": lambda model, samples: ek.smooth(model, samples, alpha=0.7, insert=True),
    "awq --recipe w4a16-g64 --group-scales mse": lambda model, samples: ek.awq(
        model, samples, ek.QuantConfig(recipe="w4a16-g64", group_scales="mse")
    ),
    "sparsify --method wanda --sparsity 0.25": lambda model, samples: ek.sparsify(
        model, method="wanda", sparsity=0.25, samples=samples
    ),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_writes_what_its_function_gives(command, given, capsys):
    folder, model, samples = given
    name, *options = command.split()
    data = [str(folder / f"{at}.npz") for at in range(len(samples))]
    out = folder / "out.onnx"
    assert cli.run([name, str(folder / "m.onnx"), *data, "-o", str(out), *options]) == 0
    assert f"{out}: {out.stat().st_size} bytes" in capsys.readouterr().out.replace("\n", "")
    assert onnx.load(out) == COMMANDS[command](model, samples)


@pytest.mark.filterwarnings("ignore::edgekern.errors.EdgekernWarning")
def test_those_that_need_no_data_take_none(tmp_path, capsys):
    model = transformers.vision_transformer()
    onnx.save(model, tmp_path / "m.onnx")
    source, out = str(tmp_path / "m.onnx"), str(tmp_path / "out.onnx")
    assert cli.run(["rotate", source, "-o", out, "--seed", "3"]) == 0
    assert onnx.load(out) == ek.rotate(model, seed=3)
    assert cli.run(["equalize", source, "-o", out]) == 0
    assert onnx.load(out) == ek.equalize(model)
    assert cli.run(["sparsify", source, "-o", out, "--pattern", "2:4", "--keep", "Conv"]) == 0
    shown = capsys.readouterr().out
    assert shown.count("50.0%") == 9
    assert onnx.load(out) == ek.sparsify(model, pattern="2:4", keep=["Conv"])
    assert cli.run(["quantize", source, "-o", out, "--recipe", "w4a8-g32", "--group-scales", "hqq"]) == 0
    config = ek.QuantConfig(recipe="w4a8-g32", group_scales="hqq")
    assert onnx.load(out) == ek.quantize(model, None, config)


def test_what_cannot_be_done_ends_with_2(given, capsys):
    folder, _, _ = given
    source, data = str(folder / "m.onnx"), str(folder / "0.npz")
    assert cli.run(["smooth", source, data, "-o", source]) == 2
    assert cli.run(["smooth", source, data, "-o", str(folder / "o.onnx"), "--alpha", "most"]) == 2
    assert "smooth: --alpha must be a number or 'auto', got 'most'" in capsys.readouterr().err
    assert cli.run(["sparsify", source, "-o", str(folder / "o.onnx"), "--method", "wanda"]) == 2
    assert "sparsify: method 'wanda' needs samples" in capsys.readouterr().err
    assert not (folder / "o.onnx").exists()
