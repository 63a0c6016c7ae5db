"""Files whose hashes are right and whose manifest, or index of another size, is not: refused without Python, too."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core
from edgekern.artifact import container

from sized_models import quantized_cnn

EKRUN = Path(_core.__file__).parent / "bin" / "ekrun"
Fields = dict[str, Any]

pytestmark = pytest.mark.skipif(not EKRUN.is_file(), reason="edgekern runs from a build tree: ekrun is not installed")


@pytest.fixture(scope="module")
def program() -> ek.Program:
    """Two modes of two sizes."""
    eight = quantized_cnn()
    return ek.compile_modes({"fast": eight, "again": eight}, batch=(1, 2))


def written(
    program: ek.Program, path: Path, manifest: str | None = None, blobs: dict[str, bytes] | None = None
) -> Path:
    """The program's file anew, with another manifest, or other bytes in some blobs."""
    opened = program.container
    content = [(one.name, (blobs or {}).get(one.name) or opened.stored(one.name)) for one in opened.index.blobs]
    metadata = dict(opened.metadata) | ({"ekm.manifest": manifest} if manifest is not None else {})
    path.write_bytes(container.build(opened.index, content, metadata).tobytes())
    return path


def ekrun(path: Path, folder: Path, shape: tuple[int, ...] = (1,)) -> subprocess.CompletedProcess[str]:
    np.save(folder / "in.npy", np.zeros(shape, np.float32))
    return subprocess.run([EKRUN, path, folder / "in.npy"], env={}, capture_output=True, text=True, check=False)


def refused(path: Path, folder: Path) -> None:
    child = ekrun(path, folder)
    assert (child.returncode, child.stdout) == (1, ""), child
    assert "is not a sound .ekm file: " in child.stderr


def test_written_anew_it_runs(program: ek.Program, tmp_path: Path) -> None:
    assert len(program.all) == 4
    child = ekrun(written(program, tmp_path / "whole.ekm"), tmp_path, program.inputs[0].shape)
    assert child.returncode == 0, child.stderr


def _variant(**changes: object) -> Callable[[Fields], object]:
    return lambda fields: fields["variants"][1].update(changes)


def _sizes(*sizes: object) -> Callable[[Fields], object]:
    return lambda fields: fields["buckets"]["dimensions"][0].update(sizes=list(sizes))


CRAFTED: dict[str, Callable[[Fields], object]] = {
    "one mode": lambda fields: fields.update(modes=["fast"]),
    "one name twice": lambda fields: fields.update(modes=["fast", "fast"]),
    "a mode too many": lambda fields: fields.update(modes=["a", "b", "c"]),
    "names that are numbers": lambda fields: fields.update(modes=[1, 2]),
    "no variants": lambda fields: fields.update(variants=[]),
    "a blob that is not there": _variant(blob="absent"),
    "a blob of weights": lambda fields: fields["variants"][1].update(blob=fields["variants"][0]["blob"]),
    "more bytes than the blob has": _variant(blob_bytes=1 << 40),
    "fewer than none": _variant(blob_bytes=-1),
    "no bytes": _variant(blob_bytes=0),
    "half of its bytes": lambda fields: fields["variants"][1].update(
        blob_bytes=fields["variants"][1]["blob_bytes"] // 2
    ),
    "no sizes": _sizes(),
    "sizes backwards": _sizes(2, 1),
    "a size too many": _sizes(1, 2, 3),
    "a size of zero": _sizes(0, 1),
    "sizes that are text": _sizes("1", "2"),
    "a size that does not fit": _sizes(1, 1 << 70),
    "sizes without end": _sizes(*range(1, 5000)),
    "an input too many": lambda fields: fields["inputs"].append(["more", 0]),
    "no outputs": lambda fields: fields.update(outputs=[]),
    "outputs that are text": lambda fields: fields.update(outputs="logits"),
    "hosts that are numbers": lambda fields: fields.update(host_steps=[1]),
}


@pytest.mark.parametrize("name", CRAFTED)
def test_a_manifest_that_does_not_fit_is_refused(name: str, program: ek.Program, tmp_path: Path) -> None:
    fields = json.loads(program.container.metadata["ekm.manifest"])
    CRAFTED[name](fields)
    crafted = json.dumps(fields, separators=(",", ":"))
    if name == "a blob of weights":  # the index of another size, told twice
        assert ekrun(written(program, tmp_path / "file.ekm", crafted), tmp_path).returncode == 1
        return
    refused(written(program, tmp_path / "file.ekm", crafted), tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", "1", '{"modes"', '{"a":' + "[" * 100_000, '{"\\ud800":1}'])
def test_a_manifest_that_is_no_json_is_refused(text: str, program: ek.Program, tmp_path: Path) -> None:
    refused(written(program, tmp_path / "file.ekm", text), tmp_path)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


@pytest.mark.parametrize(
    "told",
    [b"\2", b"\0", b"\0" + bytes(100), b"\1" + b"abc", b"\1" + _u32(0) + _u32(2**32 - 1)]
    + [b"\1" + _u32(2**32 - 1) + _u32(1) + b"x", b"\1" + _u32(8) + _u32(8) + b"\xff" * 8]
    + [b"\1" + _u32(at) + _u32(4) + b"\xff" * 4 for at in range(0, 400, 37)],
)
def test_an_index_of_another_size_that_is_not_sound_is_refused(
    told: bytes, program: ek.Program, tmp_path: Path
) -> None:
    fields = json.loads(program.container.metadata["ekm.manifest"])
    variant = fields["variants"][0]
    variant["blob_bytes"] = len(told)
    crafted = json.dumps(fields, separators=(",", ":"))
    refused(written(program, tmp_path / "file.ekm", crafted, {variant["blob"]: told}), tmp_path)
