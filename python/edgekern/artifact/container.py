"""The .ekm container: a legal safetensors file whose first blob is the program's binary index.

    u64 N | JSON header, N bytes | data: index, sha256 of the index, zeros to 64 | blob | blob | ...

Data starts at a multiple of 4096, every blob at a multiple of 64, so weights are used where the file is mapped. The
index holds the sha256 of the header and of every blob; nothing in the file is outside that chain.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArtifactError

ByteArray = npt.NDArray[np.uint8]
Verify = Literal["full", "lazy"]

FORMAT_VERSION = "1"
BLOB_ALIGNMENT = 64
PAGE = 4096
DIGEST_BYTES = 32
MAX_HEADER_BYTES = 1 << 28
INDEX = "index"
_REMEDY = "write it again with Program.save, or copy it again"


@dataclass(frozen=True, eq=False)
class Container:
    """A file in memory that has passed every check.

    Attributes
    ----------
    data : (bytes,) uint8 array
        The whole file, page-aligned, read-only.
    start : int
        Where the data section begins.
    index : _core.ProgramIndex
    metadata : dict of str to str
    """

    data: ByteArray
    start: int
    index: _core.ProgramIndex
    metadata: Mapping[str, str]

    @property
    def blobs(self) -> ByteArray:
        """The data section; BlobDef.offset counts from its start."""
        return self.data[self.start :]

    def blob(self, name: str) -> bytes:
        """A blob's bytes with their padding; KeyError when there is none of that name."""
        for entry in self.index.blobs:
            if entry.name == name:
                return self.blobs[entry.offset : entry.offset + entry.bytes].tobytes()
        raise KeyError(name)


class Content(Protocol):
    """A blob that is nowhere in one piece before it is written."""

    def __len__(self) -> int: ...

    def write_to(self, room: ByteArray) -> None:
        """Fill ``room``, which has as many bytes."""


Blob = bytes | Content


def build(index: _core.ProgramIndex, blobs: list[tuple[str, Blob]], metadata: Mapping[str, str]) -> ByteArray:
    """Lay out a file in memory; ``index`` gets its blob table and the header's hash.

    ``blobs`` is empty afterwards: each one goes when its bytes are in the file, so that both are there only once.
    """
    sizes = [_round_up(len(content), BLOB_ALIGNMENT) for _, content in blobs]
    # Lengths do not depend on values, so a first encoding says where the blobs will lie.
    index.blobs = [
        _core.BlobDef(name=name, offset=0, bytes=size, sha256=bytes(DIGEST_BYTES))
        for (name, _), size in zip(blobs, sizes, strict=True)
    ]
    encoded_bytes = len(index.encode())
    index_bytes = _round_up(encoded_bytes + DIGEST_BYTES, BLOB_ALIGNMENT)
    table, end = index.blobs, index_bytes
    for entry in table:
        entry.offset, end = end, end + entry.bytes
    index.blobs = table
    header = _header(index, index_bytes, {**metadata, "ekm.version": FORMAT_VERSION, "ekm.index": str(encoded_bytes)})
    start = len(header)
    room = _aligned_room(start + end)
    blobs.reverse()
    for entry in table:
        place = room[start + entry.offset : start + entry.offset + entry.bytes]
        entry.sha256 = _fill(place, blobs.pop()[1])
    index.blobs = table
    index.header_sha256 = hashlib.sha256(header).digest()
    encoded = index.encode()
    encoded += hashlib.sha256(encoded).digest()
    room[:start] = np.frombuffer(header, np.uint8)
    _fill(room[start : start + index_bytes], encoded)
    room.flags.writeable = False
    return room


def _fill(place: ByteArray, content: Blob) -> bytes:
    """Write a blob and the zeros behind it; its sha256."""
    size = len(content)
    if isinstance(content, bytes):
        place[:size] = np.frombuffer(content, np.uint8)
    else:
        content.write_to(place[:size])
    place[size:] = 0
    return hashlib.sha256(place.data).digest()


def read(source: str | os.PathLike[str] | bytes | ByteArray, *, verify: Verify = "full") -> Container:
    """Map a file, or take its bytes, and check everything.

    Raises
    ------
    ArtifactError
        When anything in it is not as :func:`build` wrote it.
    ArgumentTypeError
        When ``source`` is neither a path nor bytes.
    FileNotFoundError
        When the path leads nowhere.
    """
    if isinstance(source, (str, os.PathLike)):
        return check(_map(Path(source)), f"'{os.fspath(source)}'", verify)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 1:
            raise ArgumentTypeError(f"artifact: source must hold bytes, got {source.dtype} of shape {source.shape}")
        fixed = source.flags.c_contiguous and not source.flags.writeable
        in_place = fixed and source.ctypes.data % BLOB_ALIGNMENT == 0
        return check(source if in_place else _aligned(source.tobytes()), "the bytes given", verify)
    if not isinstance(source, bytes):
        raise ArgumentTypeError(f"artifact: source must be a path or bytes, got {type(source).__name__}")
    return check(_aligned(source), "the bytes given", verify)


def write(path: str | os.PathLike[str], data: ByteArray) -> None:
    """Write atomically: readers see the old file or the whole new one, also after a power cut."""
    target = Path(path)
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data.data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o666 & ~_umask())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def check(data: ByteArray, source: str, verify: Verify) -> Container:
    """Hold a file's bytes to the format, rule by rule."""

    def refuse(fact: str) -> ArtifactError:
        return ArtifactError(f"artifact: {source} is not a sound .ekm file: {fact}; {_REMEDY}")

    if data.size < 8:
        raise refuse(f"it ends after {data.size} bytes")
    header_bytes = int.from_bytes(data[:8].tobytes(), "little")
    start = 8 + header_bytes
    if header_bytes > MAX_HEADER_BYTES or start > data.size:
        raise refuse(f"its header of {header_bytes} bytes passes its end at {data.size}")
    if start % PAGE != 0:
        raise refuse(f"its data starts at {start}, which is no multiple of {PAGE}")
    header = data[:start].tobytes()
    metadata, index_bytes, encoded_bytes = _parse_header(header[8:], refuse)
    if index_bytes > data.size - start or _round_up(encoded_bytes + DIGEST_BYTES, BLOB_ALIGNMENT) != index_bytes:
        raise refuse(f"its index of {encoded_bytes} bytes does not fit its blob of {index_bytes}")
    stored = data[start : start + index_bytes].tobytes()
    encoded, digest = stored[:encoded_bytes], stored[encoded_bytes : encoded_bytes + DIGEST_BYTES]
    if hashlib.sha256(encoded).digest() != digest or any(stored[encoded_bytes + DIGEST_BYTES :]):
        raise refuse("its index does not match its sha256")
    try:
        index = _core.ProgramIndex.decode(encoded)
        if index.header_sha256 != hashlib.sha256(header).digest():
            raise refuse("its header does not match its sha256")
        if header != _header(index, index_bytes, metadata):
            raise refuse("its header lists other blobs than its index")
        _check_blobs(index, data[start:], index_bytes, verify, refuse)
        index.validate(data.size - start)
    except ArtifactError:
        raise
    except (ValueError, RuntimeError) as error:
        raise refuse(str(error)) from error
    return Container(data, start, index, metadata)


def _check_blobs(index: _core.ProgramIndex, data: ByteArray, end: int, verify: Verify, refuse: Any) -> None:
    for entry in index.blobs:
        if entry.offset != end or entry.bytes % BLOB_ALIGNMENT != 0 or entry.bytes > data.size - end:
            raise refuse(f"blob '{entry.name}' does not lie where the one before it ends")
        end += entry.bytes
        if verify == "full" and hashlib.sha256(data[entry.offset : end].data).digest() != entry.sha256:
            raise refuse(f"blob '{entry.name}' does not match its sha256")
    if end != data.size:
        raise refuse(f"{data.size - end} bytes follow its last blob")


def _parse_header(text: bytes, refuse: Any) -> tuple[dict[str, str], int, int]:
    """Metadata, and the sizes of the index: of its blob and of its encoding."""
    try:
        header = json.loads(text.decode("utf-8"))
        metadata = header["__metadata__"]
        first, last = header[INDEX]["data_offsets"]
        encoded_bytes = int(metadata["ekm.index"])
        sound = first == 0 and type(last) is int and last >= 0 and encoded_bytes >= 0
        sound = sound and all(type(value) is str for value in metadata.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise refuse("its header is not the JSON that edgekern writes") from error
    if not sound:
        raise refuse("its header is not the JSON that edgekern writes")
    if metadata.get("ekm.version") != FORMAT_VERSION:
        version = metadata.get("ekm.version")
        raise refuse(f"it has format version {version!r}, and this edgekern reads {FORMAT_VERSION!r}")
    return metadata, last, encoded_bytes


def _header(index: _core.ProgramIndex, index_bytes: int, metadata: Mapping[str, str]) -> bytes:
    """The one header that fits an index: length, then canonical JSON, padded so that data starts on a page."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items())), INDEX: _entry(0, index_bytes)}
    entries |= {blob.name: _entry(blob.offset, blob.bytes) for blob in index.blobs}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _entry(offset: int, size: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}


def _map(path: Path) -> ByteArray:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


def _aligned(content: bytes) -> ByteArray:
    """A page-aligned, read-only copy: blobs are used in place and want their alignment."""
    data = _aligned_room(len(content))
    data[:] = np.frombuffer(content, np.uint8)
    data.flags.writeable = False
    return data


def _aligned_room(size: int) -> ByteArray:
    room = np.empty(size + PAGE, np.uint8)
    first = -room.ctypes.data % PAGE
    return room[first : first + size]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
