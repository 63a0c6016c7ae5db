"""What commands end with: 0 is well, 1 is a no, 2 could not be done; docs/command-line.md has it by command."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart

typer = pytest.importorskip("typer", reason="needs edgekern[toolkit]")

DOC = Path(__file__).parent.parent / "docs" / "command-line.md"
ROW = re.compile(r"^\| `(?P<command>[\w-]+)` \| (?P<well>[^|]*) \| (?P<one>[^|]*) \|", re.M)


def documented():
    return {row["command"]: row["one"].strip() for row in ROW.finditer(DOC.read_text())}


def commands():
    from edgekern.cli.app import app

    return sorted(typer.main.get_command(app).commands)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A program, a damaged one, and arrays."""
    made = tmp_path_factory.mktemp("exit")
    train, _ = quickstart.load_digits()
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(train.feeds(batch=64))
    ek.compile(ek.quantize(quickstart.MODEL, calibrator.compute_ranges())).save(made / "m.ekm")
    damaged = bytearray((made / "m.ekm").read_bytes())
    damaged[-100] ^= 1
    (made / "damaged.ekm").write_bytes(damaged)
    np.savez(made / "x.npz", image=train.images[:8])
    np.save(made / "labels.npy", train.labels[:8])
    return made


def test_every_command_stands_in_the_table():
    assert sorted(documented()) == commands()


def test_those_that_may_say_no_are_these():
    may = {"compress", "plan", "quantize-to", "stress", "validate", "verify"}
    assert {name for name, one in documented().items() if one != "-"} == may


@pytest.mark.parametrize("command", commands())
def test_a_wrong_command_line_is_2(command, capsys):
    assert cli.run([command, "--no-such-option"]) == 2
    assert capsys.readouterr().err


@pytest.mark.parametrize("command", ["run", "inspect", "profile", "bench", "stress"])
def test_bad_input_is_2(command, folder, capsys):
    data = [str(folder / "x.npz")] if command == "run" else []
    assert cli.run([command, str(folder / "damaged.ekm"), *data]) == 2
    assert capsys.readouterr().err.startswith("edgekern: error: ")


NO = {
    "verify": ["verify", "damaged.ekm"],
    "stress": ["stress", "m.ekm", "--concurrency", "2", "--runs", "20", "--budget", "1K"],
    "validate": ["validate", "m.ekm", "--max-bytes", "1K"],
    "compress": ["compress", "MODEL", "x.npz", "-o", "new.ekm", "--max-bytes", "1K", "--method", "max"],
}


@pytest.mark.parametrize("command", NO)
def test_no_is_1(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.run([str(quickstart.MODEL) if word == "MODEL" else word for word in NO[command]]) == 1
    assert not (folder / "new.ekm").exists()


@pytest.mark.parametrize(
    "command", [["verify", "m.ekm"], ["info"], ["validate", "m.ekm", "--max-bytes", "1M"], ["run", "m.ekm", "x.npz"]]
)
def test_well_is_0(command, folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert cli.run(command) == 0


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("EDGEKERN_ISA", "nonsense", "EDGEKERN_ISA=nonsense: this CPU does not have it; it has .*scalar"),
        ("EDGEKERN_NUM_THREADS", "abc", r"EDGEKERN_NUM_THREADS=abc: it must be an integer in \[1, 1024\]; unset it"),
        ("EDGEKERN_NUM_THREADS", "0", r"EDGEKERN_NUM_THREADS=0: it must be an integer in \[1, 1024\]; unset it"),
    ],
)
@pytest.mark.parametrize("blocked", ["", "import sys; sys.modules['typer'] = None; "])
def test_an_environment_that_cannot_be_followed_is_2(name, value, message, blocked):
    code = f"{blocked}from edgekern.cli import main; main()"
    child = subprocess.run(
        [sys.executable, "-c", code, "info"],
        env=os.environ | {name: value},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    assert re.fullmatch(f"edgekern: error: {message}.*\n", child.stderr)


def test_a_number_of_threads_that_is_none_is_a_typed_error_until_one_is_set():
    code = """
import numpy as np
import edgekern as ek
a, w = np.ones((2, 64), np.int8), ek.pack_weights(np.ones((64, 8), np.int8), scale=np.ones(8, np.float32))
x = np.ones((2, 64), np.float32)
calls = (ek.get_num_threads, ek.cpu_info, lambda: ek.matmul_integer(a, w), lambda: ek.linear(x, w))
for call in calls:
    try:
        call()
    except ek.errors.ArgumentValueError as error:
        assert "EDGEKERN_NUM_THREADS=many: it must be an integer" in str(error)
    else:
        raise AssertionError(call)
assert (ek.matmul_integer(a, w, num_threads=1) == 64).all()
ek.set_num_threads(1)
for call in calls:
    call()
"""
    environment = os.environ | {"EDGEKERN_NUM_THREADS": "many"}
    subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, check=True)


def test_an_interrupt_is_130(monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("edgekern.cli.base.session.info", interrupted)
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "edgekern.cli.app", raising=False)
    assert cli.run(["info"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_verdict_that_nobody_reads_is_none(folder):
    reader, writer = os.pipe()
    os.close(reader)
    code = "from edgekern import cli; cli.main()"
    command = [sys.executable, "-c", code, "validate", str(folder / "m.ekm"), "--max-bytes", "1M"]
    with os.fdopen(writer, "wb") as nowhere:
        assert subprocess.run(command, stdout=nowhere, stderr=subprocess.DEVNULL).returncode == 2
