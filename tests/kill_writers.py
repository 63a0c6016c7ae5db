"""Kills every writer while it saves, and fills the disk under it: no target may be anything but its old or new file.

    python tests/kill_writers.py --kills 200

A kill comes at a random time, or at a random line of ``edgekern.files``. The disk is full by a limit on the size of
files and, for root, on a real file system of its own (tmpfs). Prints what was done to each writer; exits with 1 when a
file was torn or lost. The default test run makes a few kills (tests/test_files.py).
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

import edgekern as ek
from edgekern import calibration, files, quickstart
from edgekern.calibration import Ranges, TensorRange
from edgekern.cli import samples, session, toolkit

Save = Callable[[Path, int], object]  # writes content 0 or 1 to a path

DEADLINE_S = 30


def writers(folder: Path) -> dict[str, Save]:
    """Every way to write a file, each with two contents; what they read lies in ``folder``."""
    rng = np.random.default_rng(5)
    model, data = quickstart.MODEL, folder / "train.npz"
    train, _ = quickstart.load_digits()
    np.savez(data, image=train.images[:16])
    given = samples.DataOptions()
    samples.calibrate(model, [data], folder / "ranges.json", method="max", given=given)
    toolkit.quantize(model, folder / "ranges.json", folder / "qdq.onnx", activations="u8")
    programs = [ek.compile(folder / "qdq.onnx", batch=batch) for batch in (1, 2)]
    programs[0].save(folder / "model.ekm")
    caches = []
    for number in range(2):
        np.save(folder / f"{number}.npy", train.images[number : number + 1])
        shape = (2, 2048, 2, 64)
        cache = ek.RingKVCache(num_layers=2, num_kv_heads=2, head_dim=64, window=2048, kv="float32", num_threads=1)
        cache.append(*rng.standard_normal((2, *shape), np.float32))
        caches.append(cache)
    means = [tuple(rng.random(512)) for _ in range(2)]
    ranges = [Ranges({f"t{i}": TensorRange(-1, 1, channel_means=m) for i in range(40)}, "0", "max") for m in means]
    methods: tuple[calibration.Method, ...] = ("max", "percentile")
    return {
        "RingKVCache.save": lambda path, i: caches[i].save(path),
        "Ranges.save": lambda path, i: ranges[i].save(path),
        "Program.save": lambda path, i: programs[i].save(path),
        "run -o": lambda path, i: session.run(
            folder / "model.ekm",
            [folder / f"{i}.npy"],
            output=path,
            num_threads=1,
            isa=None,
            allow_host=True,
            host_timeout_s=60.0,
        ),
        "calibrate -o": lambda path, i: samples.calibrate(model, [data], path, method=methods[i], given=given),
        "quantize -o": lambda path, i: toolkit.quantize(
            model, folder / "ranges.json", path, activations="u8" if i == 0 else "s8"
        ),
        "compile -o": lambda path, i: toolkit.compile(folder / "qdq.onnx", path, batch=str(i + 1), allow_host=True),
    }


class Target:
    """One writer's file, in a folder of its own, with the two contents that it may have."""

    def __init__(self, save: Save, folder: Path) -> None:
        folder.mkdir()
        self.save, self.path = save, folder / "target.bin"
        self.contents = [self._content(i) for i in (1, 0)][::-1]
        assert self.contents[0] != self.contents[1]

    def _content(self, which: int) -> bytes:
        self.save(self.path, which)
        return self.path.read_bytes()

    @property
    def leftovers(self) -> int:
        return len(list(self.path.parent.iterdir())) - 1

    def check(self, *allowed: int) -> None:
        found = self.path.read_bytes() if self.path.exists() else None
        if found not in [self.contents[i] for i in allowed]:
            raise SystemExit(f"{self.path}: torn or lost: {None if found is None else len(found)} bytes")


@contextmanager
def child(body: Callable[[], object]) -> Iterator[int]:
    """The id of a forked process that runs ``body``; killed, if need be, when the block ends."""
    sys.stdout.flush()
    number = os.fork()
    if number == 0:
        status = 1
        try:
            body()
            status = 0
        except OSError:
            status = 2
        finally:
            os._exit(status)
    try:
        yield number
    finally:
        os.kill(number, signal.SIGKILL)
        os.waitpid(number, 0)


def ended(number: int) -> int | None:
    """The status of a child once it has ended, which stays there to be waited for; None at the deadline."""
    end = time.monotonic() + DEADLINE_S
    while time.monotonic() < end:
        found = os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if found is not None:
            return found.si_status
        time.sleep(0.001)
    return None


def die_at_line(wanted: int) -> None:
    """Kill this process before it runs its ``wanted``-th line of edgekern.files."""
    left = wanted

    def trace(frame, event, argument):  # type: ignore[no-untyped-def]
        nonlocal left
        if frame.f_code.co_filename != files.__file__:
            return None
        if event == "line":
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def kill(target: Target, rng: random.Random, turn: int, duration: float) -> None:
    """One kill while content 1 replaces content 0, and back."""

    def save_for_ever() -> None:
        if turn % 2:
            die_at_line(rng.randrange(120))
        for i in range(1 << 30):
            target.save(target.path, 1 - i % 2)

    with child(save_for_ever) as number:
        if turn % 2:
            assert ended(number) == signal.SIGKILL, "the writer did not die where it had to"
        else:
            time.sleep(rng.random() * 3 * duration)
    target.check(0, 1)


def full_by_limit(target: Target) -> None:
    """No file of the child may grow beyond half of the new content."""

    def save() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        most = len(target.contents[1]) // 2
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        target.save(target.path, 1)

    target.save(target.path, 0)
    with child(save) as number:
        assert ended(number) == 2, "a save on a full disk must be an OSError"
    target.check(0)
    assert target.leftovers == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[Path | None]:
    """A file system of 24 MiB, or None where it cannot be had."""
    folder.mkdir()
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder]
    mounted = mount is not None and subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield folder if mounted else None
    finally:
        if mounted:
            subprocess.run(["umount", folder], check=True)


def full_disk(target: Target) -> None:
    filler = target.path.parent.parent / "filler"
    target.save(target.path, 0)
    with filler.open("wb", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    said = ""
    try:
        target.save(target.path, 1)
    except OSError as error:
        said = str(error)
    filler.unlink()
    assert str(target.path) in said, "a save on a full disk must be an OSError that names the file"
    target.check(0)
    assert target.leftovers == 0
    target.save(target.path, 1)
    target.check(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="over all writers")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    rng = random.Random(given.seed)
    with tempfile.TemporaryDirectory() as name, small_disk(Path(name) / "disk") as disk:
        folder = Path(name)
        saves = writers(folder)
        kills = {key: given.kills // len(saves) + (i < given.kills % len(saves)) for i, key in enumerate(saves)}
        for key, save in saves.items():
            target = Target(save, folder / key.replace(" ", ""))
            start = time.monotonic()
            target.save(target.path, 0)
            duration = time.monotonic() - start
            left = 0
            for turn in range(kills[key]):
                kill(target, rng, turn, duration)
                left += target.leftovers
            target.save(target.path, 0)
            assert target.leftovers == 0, "the next save must clean up"
            full_by_limit(target)
            if disk is not None:
                full_disk(Target(save, disk / key.replace(" ", "")))
            print(
                f"{key:17} {kills[key]:4} kills: 0 torn, {left} left a temporary file, all cleaned by the next save; "
                f"full disk by limit: old file whole; by tmpfs: {'old file whole' if disk else 'not to be had here'}"
            )
    print(f"{given.kills} kills over {len(saves)} writers: no torn file")


if __name__ == "__main__":
    main()
