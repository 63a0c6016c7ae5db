"""Writers: a file is replaced whole or not at all, only where a file may be replaced, and never an input."""

import os
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, files, quickstart
from edgekern.calibration import Ranges, TensorRange
from edgekern.cli import samples, toolkit
from edgekern.errors import ArgumentValueError

KINDS = ("a symbolic link", "a FIFO", "a folder", "a socket", "a device")


def make(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something at ``path`` that is no regular file."""
    if kind == "a symbolic link":
        aim = path.with_name("aim")
        aim.write_bytes(b"behind the link")
        path.symlink_to(aim)
    elif kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a folder":
        path.mkdir()
    elif kind == "a socket":
        monkeypatch.chdir(path.parent)  # addresses are short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    elif os.geteuid() != 0:
        pytest.skip("only root makes devices")
    else:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def write(path: Path, content: bytes = b"new", **options) -> None:
    with files.atomic_write(path, function="test", **options) as file:
        file.write(content)


def test_a_file_appears_when_the_block_ends_and_nothing_else_stays(tmp_path):
    path = tmp_path / "x.bin"
    with files.atomic_write(path, function="test") as file:
        file.write(b"new")
        assert not path.exists()
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_a_block_that_raises_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")

    def fail() -> None:
        with files.atomic_write(path, function="test") as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_a_new_file_has_the_mode_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        write(tmp_path / "x.bin")
    finally:
        os.umask(before)
    assert (tmp_path / "x.bin").stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_a_replaced_file_keeps_its_mode_and_nobody_may_read_the_new_one_before(tmp_path, mode):
    path = tmp_path / "x.bin"
    path.write_bytes(b"old")
    path.chmod(mode)
    with files.atomic_write(path, function="test") as file:
        file.write(b"new")
        [temporary] = set(tmp_path.iterdir()) - {path}
        assert temporary.stat().st_mode & ~mode & 0o777 == 0
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("kind", KINDS)
def test_only_regular_files_are_replaced(tmp_path, kind, monkeypatch):
    path = tmp_path / "target"
    make(kind, path, monkeypatch)
    before = names(tmp_path), path.lstat()
    for refuse in (write, lambda p: files.check_target(p, function="test")):
        with pytest.raises(ArgumentValueError, match=f"test: .*target is {kind}.*write to"):
            refuse(path)
    assert (names(tmp_path), path.lstat()) == before


def test_a_folder_that_lacks_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        write(tmp_path / "absent" / "x.bin")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="file"):
        write(tmp_path / "file" / "x.bin")


@pytest.mark.parametrize(("denied", "words"), [(".", "the folder cannot be written"), ("x.bin", "read-only")])
def test_what_may_not_be_written_is_refused_before_the_work(tmp_path, monkeypatch, denied, words):
    (tmp_path / "x.bin").write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda name, mode, **where: name != denied)  # root may do everything
    with pytest.raises(PermissionError, match=words):
        files.check_target(tmp_path / "x.bin", function="test")


def test_a_full_disk_is_named_with_the_target(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.bin'"):
        write(tmp_path / "x.bin")
    assert names(tmp_path) == []


def test_an_input_is_not_overwritten_under_any_name(tmp_path, monkeypatch):
    source = tmp_path / "in.bin"
    source.write_bytes(b"input")
    (tmp_path / "hard").hardlink_to(source)
    (tmp_path / "soft").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    for target, given in (
        ("in.bin", source),
        (f"../{tmp_path.name}/in.bin", source),
        ("hard", source),
        ("in.bin", "soft"),
    ):
        with pytest.raises(ArgumentValueError, match=r"test: the output .* is the input .*; write to another path"):
            write(target, inputs=[tmp_path / "absent", given])
    assert source.read_bytes() == b"input"


def test_what_a_killed_writer_left_goes_at_the_next_save_and_nothing_else(tmp_path):
    path = tmp_path / "x.bin"
    left = tmp_path / ".x.bin.0123456789abcdef.edgekern-tmp"
    others = (".x.bin.tmp", ".x.binary.0123456789abcdef.edgekern-tmp", "x.bin.edgekern-tmp")
    others = [tmp_path / name for name in others]
    for file in (left, *others):
        file.write_bytes(b"half")
    write(path)
    assert names(tmp_path) == sorted(["x.bin", *(other.name for other in others)])


def test_the_file_of_a_living_writer_is_left_alone(tmp_path):
    path = tmp_path / "x.bin"
    with files.atomic_write(path, function="test") as first:
        first.write(b"first")
        write(path, b"second")
        assert path.read_bytes() == b"second"
        assert len(names(tmp_path)) == 2
    assert path.read_bytes() == b"first"
    assert names(tmp_path) == ["x.bin"]


def test_many_writers_at_once_leave_one_whole_file(tmp_path):
    path = tmp_path / "x.bin"
    contents = [bytes([number]) * 200_000 for number in range(4)]
    threads = [threading.Thread(target=lambda c=c: [write(path, c) for _ in range(15)]) for c in contents]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_bytes() in contents
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert names(tmp_path) == ["x.bin"]


def test_two_processes_at_once_leave_one_whole_file(tmp_path):
    code = """
import sys
from edgekern import files
for _ in range(40):
    with files.atomic_write(sys.argv[1], function="test") as file:
        file.write(sys.argv[2].encode() * 100_000)
"""
    path = tmp_path / "x.bin"
    children = [subprocess.Popen([sys.executable, "-c", code, path, letter]) for letter in "ab"]
    assert [child.wait() for child in children] == [0, 0]
    assert path.read_bytes() in (b"a" * 100_000, b"b" * 100_000)
    assert names(tmp_path) == ["x.bin"]


@pytest.mark.parametrize("name", ["n" * 255, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 127, "[a-b]*?"])
def test_any_name_that_a_file_may_have_will_do(tmp_path, name):
    for content in (b"one", b"two"):
        write(tmp_path / name, content)
        assert (tmp_path / name).read_bytes() == content
    assert names(tmp_path) == [name]


def test_a_relative_path_means_the_folder_where_the_work_began(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with files.atomic_write("x.bin", function="test") as file:
        file.write(b"new")
        monkeypatch.chdir(tmp_path / "elsewhere")
    assert (tmp_path / "x.bin").read_bytes() == b"new"


# --- the writers


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """What the commands read: a model, data, ranges, a QDQ model, a program."""
    folder = tmp_path_factory.mktemp("writers")
    (folder / "m.onnx").write_bytes(quickstart.MODEL.read_bytes())
    train, _ = quickstart.load_digits()
    np.savez(folder / "x.npz", image=train.images[:1])
    for command in (
        ["calibrate", "m.onnx", "x.npz", "-o", "r.json", "--method", "max"],
        ["quantize", "m.onnx", "r.json", "-o", "q.onnx"],
        ["compile", "q.onnx", "-o", "p.ekm"],
    ):
        assert cli.run([str(folder / word) if "." in word else word for word in command]) == 0
    return folder


WRITERS = {
    "RingKVCache.save": lambda path, folder: ek.RingKVCache(num_layers=1, num_kv_heads=1, head_dim=8).save(path),
    "Ranges.save": lambda path, folder: Ranges({"t": TensorRange(-1, 1)}, "0", "max").save(path),
    "Calibrator.save": lambda path, folder: ek.Calibrator(folder / "m.onnx", progress=False).save(path),
    "Program.save": lambda path, folder: ek.Program.load(folder / "p.ekm").save(path),
    "quickstart": lambda path, folder: quickstart.run(save=path),
    "run": lambda path, folder: cli.session.run(
        folder / "p.ekm", [folder / "x.npz"], output=path, num_threads=1, isa=None, allow_host=True, host_timeout_s=60.0
    ),
    "calibrate": lambda path, folder: samples.calibrate(
        folder / "m.onnx", [folder / "x.npz"], path, method=None, given=samples.DataOptions()
    ),
    "quantize": lambda path, folder: toolkit.quantize(folder / "m.onnx", folder / "r.json", path, activations="u8"),
    "compile": lambda path, folder: toolkit.compile(folder / "q.onnx", path, batch="1", allow_host=True),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", WRITERS)
def test_every_writer_refuses_what_is_no_regular_file(workshop, tmp_path, monkeypatch, name, kind):
    path = tmp_path / "target"
    make(kind, path, monkeypatch)
    with pytest.raises(ArgumentValueError, match=f"{name}: .*target is {kind}"):
        WRITERS[name](path, workshop)


@pytest.mark.parametrize(
    "command",
    [
        "compile q.onnx -o q.onnx",
        "compile q.onnx -o ./../NAME/q.onnx",
        "quantize m.onnx r.json -o m.onnx",
        "quantize m.onnx r.json -o r.json",
        "calibrate m.onnx x.npz -o m.onnx",
        "calibrate m.onnx x.npz -o x.npz",
        "calibrate m.onnx . -o x.npz",
        "run p.ekm x.npz -o x.npz",
        "run p.ekm x.npz -o p.ekm",
        "compile q.onnx -o absent/p.ekm",
        "run p.ekm x.npz -o .",
    ],
)
def test_a_command_that_would_overwrite_an_input_is_refused_before_the_work(workshop, monkeypatch, capsys, command):
    for room, work in (("runtime", "InferenceSession"), ("compiler", "compile"), ("quantization", "quantize")):
        monkeypatch.setattr(f"edgekern.{room}.{work}", lambda *_, **__: pytest.fail("the work was begun"))
    monkeypatch.setattr("edgekern.calibration.Calibrator", lambda *_: pytest.fail("the work was begun"))
    monkeypatch.chdir(workshop)
    before = {path: path.read_bytes() for path in workshop.iterdir()}
    assert cli.run(command.replace("NAME", workshop.name).split()) == 2
    assert "edgekern: error: " in capsys.readouterr().err
    assert {path: path.read_bytes() for path in workshop.iterdir()} == before


def test_external_data_of_a_model_is_an_input(tmp_path):
    onnx = pytest.importorskip("onnx")
    model = onnx.load(quickstart.MODEL)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    before = (tmp_path / "m.data").read_bytes()
    assert before
    with pytest.raises(ArgumentValueError, match=r"m\.data is the input .*m\.data"):
        toolkit.compile(tmp_path / "m.onnx", tmp_path / "m.data", batch="1", allow_host=True)
    assert (tmp_path / "m.data").read_bytes() == before


def test_killed_writers_and_full_disks_leave_whole_files(repository):
    """A few kills; ``python tests/kill_writers.py --kills 200`` makes more."""
    command = [sys.executable, "tests/kill_writers.py", "--kills", "14"]
    child = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr
    assert "14 kills over 7 writers: no torn file" in child.stdout
