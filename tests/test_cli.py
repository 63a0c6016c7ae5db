"""The command line: every command calls its room, and every mistake is one line and a non-zero status."""

import json
import os
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core, cli, quickstart
from edgekern.cli import choices
from edgekern.quantization import config

RANGES, QDQ, EKM = "ranges.json", "digits.qdq.onnx", "digits.ekm"


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """A folder where the four commands from a float model to an .ekm have run."""
    folder = tmp_path_factory.mktemp("cli")
    train, held_out = quickstart.load_digits()
    np.savez(folder / "train.npz", image=train.images[:256])
    np.save(folder / "one.npy", held_out.images[:1])
    model = str(quickstart.MODEL)
    for command in (
        ["calibrate", model, str(folder / "train.npz"), "-o", str(folder / RANGES), "--batch", "64"],
        ["quantize", model, str(folder / RANGES), "-o", str(folder / QDQ)],
        ["compile", str(folder / QDQ), "-o", str(folder / EKM), "--no-allow-host"],
    ):
        assert cli.run(command) == 0, command
    return folder


def test_run_writes_what_the_session_computes(workshop, capsys):
    output = workshop / "logits.npz"
    assert cli.run(["run", str(workshop / EKM), str(workshop / "one.npy"), "-o", str(output), "--threads", "1"]) == 0
    assert "logits float32[1, 10]" in capsys.readouterr().out
    _, held_out = quickstart.load_digits()
    with np.load(output) as outputs:
        assert outputs["logits"].argmax() == held_out.labels[0]


def test_run_names_the_outputs_of_several_files(workshop, tmp_path):
    _, held_out = quickstart.load_digits()
    for number in range(3):
        (tmp_path / str(number)).mkdir()
        np.save(tmp_path / f"{number}.npy", held_out.images[number : number + 2])
        np.save(tmp_path / str(number) / "x.npy", held_out.images[number : number + 1])
    output, program = tmp_path / "logits.npz", workshop / EKM
    session = ek.InferenceSession(program)
    assert cli.run(["run", str(program), *(str(tmp_path / f"{n}.npy") for n in range(3)), "-o", str(output)]) == 0
    with np.load(output) as outputs:
        assert outputs.files == [f"{n}.npy/logits" for n in range(3)]
        wanted = [session.run(None, {"image": held_out.images[n : n + 1]})[0] for n in (1, 2)]
        assert np.array_equal(outputs["1.npy/logits"], np.concatenate(wanted))
    twins = [str(tmp_path / str(n) / "x.npy") for n in range(2)]  # of one name: their paths tell them apart
    assert cli.run(["run", str(program), *twins, "-o", str(output)]) == 0
    with np.load(output) as outputs:
        assert outputs.files == [f"{twin}/logits" for twin in twins]
    assert cli.run(["run", str(program), twins[0], twins[0], "-o", str(output)]) == 2


def test_calibrate_takes_a_folder_of_arrays(workshop, tmp_path, capsys):
    train, _ = quickstart.load_digits()
    data = tmp_path / "data"
    data.mkdir()
    for number in range(2):
        np.save(data / f"{number}.npy", train.images[number * 64 : (number + 1) * 64])
    command = ["calibrate", str(quickstart.MODEL), str(data), "-o", str(tmp_path / RANGES), "--method", "max"]
    assert cli.run(command) == 0
    assert "by max" in capsys.readouterr().out


def test_calibrate_prints_what_every_range_costs(workshop, tmp_path, capsys):
    ranges = str(tmp_path / RANGES)
    command = ["calibrate", str(quickstart.MODEL), str(workshop / "train.npz"), "-o", ranges, "--method", "auto"]
    assert cli.run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    written = ek.Ranges.load(ranges)
    assert [row["tensor"] for row in told["tensors"]] == list(written)
    for row in told["tensors"]:
        r = written[row["tensor"]]
        assert (row["lo"], row["hi"], row["clipped_fraction"], row["method"]) == (
            r.lo,
            r.hi,
            r.clipped_fraction,
            r.method,
        )
        assert row["scale"] == pytest.approx((r.hi - r.lo) / 255)
        assert 0 <= row["zero_point"] <= 255
        assert row["mse"] == pytest.approx(r.noise)
        assert row["kl"] is None or row["kl"] >= 0
    assert cli.run([*command, "--table"]) == 0
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["tensor", "method", "scale", "zero", "point", "lo", "hi", "clipped", "%", "MSE", "KL"]
    assert len({len(line) for line in (head, *lines)}) == 1
    assert len(lines) == len(written)
    assert last.endswith("ranges by auto, of 256 samples")


def test_verify_and_inspect_read_a_program(workshop, capsys):
    assert cli.run(["verify", str(workshop / EKM)]) == 0
    assert cli.run(["inspect", str(workshop / EKM)]) == 0
    shown = capsys.readouterr().out
    assert "image" in shown
    assert "logits" in shown
    assert "Conv" in shown


def test_inspect_tells_the_kinds_of_steps_alone(workshop, capsys):
    program = ek.Program.load(workshop / EKM)
    assert cli.run(["inspect", str(workshop / EKM), "--kinds"]) == 0
    shown = capsys.readouterr().out.split()
    assert shown == sorted({step.kind.name for step in program.index.steps})
    assert _without_toolkit("inspect", str(workshop / EKM), "--kinds").stdout.split() == shown
    assert cli.run(["inspect", str(quickstart.MODEL), "--kinds"]) == 2
    assert "an ONNX model" in capsys.readouterr().err


def test_inspect_says_what_would_become_of_an_onnx_model(capsys):
    assert cli.run(["inspect", str(quickstart.MODEL), "--batch", "2"]) == 0
    shown = capsys.readouterr().out
    assert "float32: nothing is quantized" in shown
    assert "0 of the host" in shown
    assert " Conv, " in shown


def test_quantize_takes_rules(workshop, tmp_path, capsys):
    command = ["quantize", str(quickstart.MODEL), str(workshop / RANGES), "-o", str(tmp_path / "qdq.onnx")]
    assert cli.run([*command, "--keep-float", "Gemm", "--override", "Conv=float32"]) == 0
    assert cli.run(["inspect", str(tmp_path / "qdq.onnx")]) == 0
    assert "float32: nothing is quantized" in capsys.readouterr().out
    assert cli.run([*command, "--override", "Conv"]) != 0
    assert "--override must be RULE=RECIPE" in capsys.readouterr().err


def test_quantize_gives_the_first_and_the_last_layer_recipes_of_their_own(workshop, tmp_path, capsys):
    qdq = str(tmp_path / "qdq.onnx")
    command = ["quantize", str(quickstart.MODEL), str(workshop / RANGES), "-o", qdq, "--recipe", "w8a8"]
    assert cli.run([*command, "--first", "float32", "--last", "w4a8-g32"]) == 0
    chosen = [choice.recipe for choice in ek.quantization.plan_of(qdq).choices]
    assert chosen == ["float32", *["w8a8"] * (len(chosen) - 2), "w4a8-g32"]
    assert cli.run([*command, "--first", "auto"]) != 0
    assert "'auto' is not one of" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["Recipe", "ModelRecipe", "GroupRecipe", "Rounding", "GroupScales", "Granularity"])
def test_options_have_the_choices_of_a_configuration(name):
    assert get_args(getattr(choices, name)) == get_args(getattr(config, name))


def test_quantize_takes_the_types_of_borders(workshop, tmp_path, capsys):
    qdq, ekm = str(tmp_path / "qdq.onnx"), str(tmp_path / "model.ekm")
    command = ["quantize", str(quickstart.MODEL), str(workshop / RANGES), "-o", qdq]
    assert cli.run([*command, "--inputs", "uint8", "--outputs", "logits=int8"]) == 0
    assert cli.run(["compile", qdq, "-o", ekm]) == 0
    program = ek.Program.load(ekm)
    assert [at.dtype.name for at in (*program.inputs, *program.outputs)] == ["uint8", "int8"]
    assert cli.run([*command, "--inputs", "pixels=uint8"]) != 0
    assert "model has no input 'pixels'" in capsys.readouterr().err


def test_info_names_the_isa(capsys):
    assert cli.run(["info"]) == 0
    assert "isa" in capsys.readouterr().out


def _error_line(capsys: pytest.CaptureFixture[str]) -> str:
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("edgekern: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_flipped_bit_is_one_readable_line(workshop, tmp_path, capsys):
    damaged = bytearray((workshop / EKM).read_bytes())
    damaged[-100] ^= 1
    path = tmp_path / "damaged.ekm"
    path.write_bytes(damaged)
    assert cli.run(["verify", str(path)]) == 1
    assert "sha256" in _error_line(capsys)


def test_a_file_that_is_not_onnx_is_one_readable_line(tmp_path, capsys):
    path = tmp_path / "not.onnx"
    path.write_bytes(b"this is no model")
    assert cli.run(["compile", str(path), "-o", str(tmp_path / EKM)]) == 2
    assert "compile" in _error_line(capsys)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [({"picture": np.zeros((1, 1, 8, 8), np.float32)}, "no array for ['image']"), (None, "holds no samples")],
)
def test_data_without_the_input_is_one_readable_line(workshop, tmp_path, capsys, arrays, message):
    data = tmp_path / "data"
    data.mkdir()
    if arrays:
        np.savez(data / "feed.npz", **arrays)
    assert cli.run(["run", str(workshop / EKM), str(data)]) == 2
    assert message in _error_line(capsys)


def test_an_isa_that_the_cpu_lacks_is_one_readable_line(workshop, capsys):
    assert cli.run(["run", str(workshop / EKM), str(workshop / "one.npy"), "--isa", "neon9000"]) == 2
    assert "neon9000" in _error_line(capsys)


def test_unknown_command_and_missing_file_fail():
    assert cli.run(["conjure"]) == 2
    assert cli.run(["verify", "there-is-no-such-file.ekm"]) != 0


BLOCK_TOOLKIT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"typer", "rich", "click", "onnx", "onnx_ir", "onnxruntime"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
from edgekern import cli
sys.exit(cli.run(sys.argv[1:]))
"""


def _without_toolkit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCK_TOOLKIT, *arguments], capture_output=True, text=True, check=False
    )


def test_base_install_runs_verifies_and_informs(workshop, tmp_path):
    output = tmp_path / "logits.npz"
    for arguments in (
        ["run", str(workshop / EKM), str(workshop / "one.npy"), "-o", str(output)],
        ["verify", str(workshop / EKM)],
        ["info"],
    ):
        child = _without_toolkit(*arguments)
        assert child.returncode == 0, child.stderr
    assert output.exists()


@pytest.mark.filterwarnings("always::edgekern.errors.EdgekernWarning")  # which the command prints
def test_quantizing_rows_as_they_come_needs_no_ranges(tmp_path, capsys):
    command = ["quantize", str(quickstart.MODEL), "-o", str(tmp_path / "qdq.onnx")]
    assert cli.run([*command, "--recipe", "w8a8-dynamic"]) == 0
    assert "5 products stay float32" in capsys.readouterr().err
    assert cli.run(["inspect", str(tmp_path / "qdq.onnx")]) == 0
    assert "in 8 bits" in capsys.readouterr().out
    assert cli.run(command) != 0
    assert "there are no ranges" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["quickstart", "calibrate", "quantize", "compile", "validate", "compress"])
def test_base_install_says_which_extra_a_command_needs(command):
    child = _without_toolkit(command)
    assert child.returncode == 2
    assert "pip install 'edgekern[toolkit]'" in child.stderr
    assert f"'{command}'" in child.stderr
    assert "Traceback" not in child.stderr


def test_base_install_inspects_programs_and_says_what_models_need(workshop):
    child = _without_toolkit("inspect", str(workshop / EKM))
    assert child.returncode == 0, child.stderr
    assert "/stem/conv/Conv" in child.stdout
    child = _without_toolkit("inspect", str(quickstart.MODEL))
    assert child.returncode == 2
    assert "'inspect' needs the module onnx; install it with: pip install 'edgekern[toolkit]'" in child.stderr


def test_base_install_goes_on_with_a_text_and_compares_formats(test_data, tmp_path, capsys):
    folder = test_data / "llm"
    (tmp_path / "text.txt").write_text("Once upon a time there was a cat.")
    model, words = str(folder / "stories260K.bin"), ["--tokenizer", str(folder / "tok512.bin")]
    for command in (
        ["generate", model, *words, "--prompt", "Once upon", "--max-new-tokens", "6"],
        ["perplexity", model, str(tmp_path / "text.txt"), *words, "--kv", "int8", "--kv", "int4"],
    ):
        child = _without_toolkit(*command)
        assert child.returncode == 0, child.stderr
        assert cli.run(command) == 0
        lines = capsys.readouterr().out.splitlines()
        assert child.stdout.splitlines()[:-1] == lines[:-1]  # the last one has times


def test_base_install_reports_errors_in_one_line(workshop):
    child = _without_toolkit("verify", str(workshop / QDQ))
    assert child.returncode == 1
    assert child.stderr.startswith("edgekern: error: ")
    assert len(child.stderr.splitlines()) == 1


@pytest.mark.parametrize("blocked", ["", "import sys; sys.modules['typer'] = None; "])
def test_the_package_is_the_command_and_tells_its_version(blocked):
    told = subprocess.run([sys.executable, "-m", "edgekern", "--version"], capture_output=True, text=True, check=True)
    run = f"{blocked}from edgekern.cli import main; main()"
    base = subprocess.run([sys.executable, "-c", run, "--version"], capture_output=True, text=True, check=True)
    assert told.stdout == base.stdout == f"edgekern {_core.__version__}\n"


def test_what_8_bits_cost_is_told_by_commands(tmp_path):
    train, _ = quickstart.load_digits()
    model, ranges, program = str(quickstart.MODEL), str(tmp_path / "r.json"), str(tmp_path / "m.ekm")
    data = str(tmp_path / "x.npz")
    np.savez(data, image=train.images[:32])
    command = [sys.executable, "-m", "edgekern"]

    def told(*words):
        return subprocess.run([*command, *words], capture_output=True, text=True, check=True).stdout

    told("calibrate", model, data, "-o", ranges)
    told("quantize", model, ranges, "-o", str(tmp_path / "q.onnx"))
    told("compile", str(tmp_path / "q.onnx"), "-o", program)
    found = json.loads(told("sensitivity", model, ranges, data, "--json"))
    read = ek.calibration.Ranges.load(ranges)
    expected = ek.sensitivity(model, read, {"image": train.images[:16]}, progress=False)
    assert [row["name"] for row in found["rows"]] == [row.name for row in expected.rows]
    assert "recommendation" in told("compare", model, program, data)
    assert "outside" in told("coverage", model, ranges, data)


def test_shells_learn_to_complete_commands_and_options():
    def completed(words: str) -> list[str]:
        environment = os.environ | {"_EDGEKERN_COMPLETE": "complete_bash", "COMP_WORDS": words}
        environment["COMP_CWORD"] = str(len(words.split()) - 1)
        command = [sys.executable, "-c", "from edgekern.cli import main; main()"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.split()

    assert completed("edgekern vali") == ["validate"]
    assert completed("edgekern validate --max-d") == ["--max-drop"]
    shown = subprocess.run(
        [sys.executable, "-m", "edgekern", "--show-completion", "bash"], capture_output=True, text=True, check=False
    )
    assert "_EDGEKERN_COMPLETE=complete_bash" in shown.stdout
