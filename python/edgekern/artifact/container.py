"""The .ekm container: a legal safetensors file whose first blob is the program's binary index.

    u64 N | JSON header, N bytes | data: index, sha256 of the index, zeros to 64 | blob | blob | ...

Data starts at a multiple of 4096, every blob at a multiple of 64, so weights are used where the file is mapped. The
index holds the sha256 of the header and of every blob; nothing in the file is outside that chain.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from edgekern import _core, files
from edgekern.errors import ArgumentTypeError, ArtifactError
from edgekern.file_kinds import naming_kind
from edgekern.files import ByteArray

Verify = Literal["full", "lazy"]

FORMAT_VERSION = "1"
BLOB_ALIGNMENT = 64
PAGE = 4096
DIGEST_BYTES = 32
INDEX = "index"
_OPENING = b'{"__metadata__":{"'
_MOST_STRINGS = 32  # of metadata
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
        return self.view(name).tobytes()

    def view(self, name: str) -> memoryview:
        """The same where they lie."""
        start, stop = self._places[name]
        return self.blobs[start:stop].data

    def checked(self, name: str) -> bytes:
        """A blob's bytes, whose hash is compared whether or not those of all are.

        Raises
        ------
        ArtifactError
            When they are not as they were written.
        """
        found, entry = self.blob(name), next(entry for entry in self.index.blobs if entry.name == name)
        if hashlib.sha256(found).digest() != entry.sha256:
            raise ArtifactError(f"artifact: the bytes of '{name}' are not those that were written; {_REMEDY}")
        return found

    def stored(self, name: str) -> Blob:
        """A blob as another file may take it over."""
        entry = next(entry for entry in self.index.blobs if entry.name == name)
        return Kept(self.blobs[entry.offset : entry.offset + entry.bytes], form_of(entry))

    @cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Of blobs in the data section, by their names."""
        return {entry.name: (entry.offset, entry.offset + entry.bytes) for entry in reversed(self.index.blobs)}


@dataclass(frozen=True)
class Form:
    """How a file has a blob.

    Attributes
    ----------
    stored : as steps read it, as halves, or as 4 bits
    parts, codes : of 4 bits, how many equal parts there are, and codes in each
    """

    stored: _core.Storage = _core.Storage.WHOLE
    parts: int = 0
    codes: int = 0


def form_of(entry: _core.BlobDef) -> Form:
    return Form(entry.stored, entry.parts, entry.codes)


class Content(Protocol):
    """A blob that is nowhere in one piece before it is written."""

    def __len__(self) -> int: ...

    def write_to(self, room: ByteArray) -> None:
        """Fill ``room``, which has as many bytes."""


@dataclass(frozen=True, eq=False)
class Halves:
    """A blob of float32 that a file has as halves: a session widens it when it is opened."""

    content: npt.NDArray[np.uint16]
    form: Form

    def __len__(self) -> int:
        return self.content.nbytes

    def write_to(self, room: ByteArray) -> None:
        room[:] = self.content.view(np.uint8)


@dataclass(frozen=True, eq=False)
class Kept:
    """A blob of another file, as it lies there, or one that was made as a file has it."""

    content: ByteArray
    form: Form

    def __len__(self) -> int:
        return self.content.nbytes

    def write_to(self, room: ByteArray) -> None:
        room[:] = self.content


Blob = bytes | Content


def build(index: _core.ProgramIndex, blobs: list[tuple[str, Blob]], metadata: Mapping[str, str]) -> ByteArray:
    """Lay out a file in memory; ``index`` gets its blob table and the header's hash.

    ``blobs`` is empty afterwards: each one goes when its bytes are in the file, so that both are there only once.
    """
    sizes = [_round_up(len(content), BLOB_ALIGNMENT) for _, content in blobs]
    # Lengths do not depend on values, so a first encoding says where the blobs will lie.
    index.blobs = [
        _core.BlobDef(
            name=name,
            offset=0,
            bytes=size,
            sha256=bytes(DIGEST_BYTES),
            stored=(form := _form(content)).stored,
            parts=form.parts,
            codes=form.codes,
        )
        for (name, content), size in zip(blobs, sizes, strict=True)
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


def _form(blob: Blob) -> Form:
    return blob.form if isinstance(blob, (Halves, Kept)) else Form()


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
    with naming_kind(source, "a compiled program (.ekm)", "ekm", "empty", "zeros"):
        return _read(source, verify)


def _read(source: str | os.PathLike[str] | bytes | ByteArray, verify: Verify) -> Container:
    if isinstance(source, (str, os.PathLike)):
        told = (
            os.fspath(source).encode("utf-8", "backslashreplace").decode()
        )  # names of files are bytes, and need be no text
        return check(files.map_file(source, function="Program.load"), f"'{told}'", verify)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.ndim != 1:
            raise ArgumentTypeError(f"artifact: source must hold bytes, got {source.dtype} of shape {source.shape}")
        fixed = source.flags.c_contiguous and not source.flags.writeable
        in_place = fixed and source.ctypes.data % BLOB_ALIGNMENT == 0
        return check(source if in_place else _aligned(source.tobytes()), "the bytes given", verify)
    if not isinstance(source, bytes):
        raise ArgumentTypeError(f"artifact: source must be a path or bytes, got {type(source).__name__}")
    return check(_aligned(source), "the bytes given", verify)


def check(data: ByteArray, source: str, verify: Verify) -> Container:
    """Hold a file's bytes to the format: the core to all that it says of bytes, this to what it says of the JSON.

    The index comes first: what follows from it bounds the header, which is then the only one that fits.
    """

    def refuse(fact: str) -> ArtifactError:
        return ArtifactError(f"artifact: {source} is not a sound .ekm file: {fact}; {_REMEDY}")

    index, start, encoded_bytes = _core.open_container(data, source, verify == "full")
    metadata = _read_header(data[:start], index, encoded_bytes, refuse)
    return Container(data, start, index, metadata)


def _read_header(header: ByteArray, index: _core.ProgramIndex, encoded_bytes: int, refuse: Any) -> dict[str, str]:
    """The metadata, of a header that is the one that fits the index."""
    most = _most_header_bytes(index, encoded_bytes)
    if header.size > most:
        raise refuse(f"its header has {header.size} bytes, and its index calls for {most} at most")
    try:
        metadata = _metadata(header[8:].tobytes().decode("ascii"))
    except (ValueError, IndexError) as error:
        raise refuse("its header is not the JSON that edgekern writes") from error
    if (version := metadata.get("ekm.version")) != FORMAT_VERSION:
        raise refuse(f"it has format version {version!r}, and this edgekern reads {FORMAT_VERSION!r}")
    index_bytes = _round_up(encoded_bytes + DIGEST_BYTES, BLOB_ALIGNMENT)
    fits = metadata.get("ekm.index") == str(encoded_bytes)
    if not fits or header.tobytes() != _header(index, index_bytes, metadata):
        raise refuse("its header lists other blobs than its index")
    return metadata


def _most_header_bytes(index: _core.ProgramIndex, encoded_bytes: int) -> int:
    """What the header of an index may take: its table has a line for every blob of the index, and its manifest tells of
    the index, of the nodes in the host's models and of channels, which all lie in blobs."""
    return (1 << 16) + 8 * encoded_bytes + sum(blob.bytes for blob in index.blobs)


def _metadata(text: str) -> dict[str, str]:
    """The strings that a header opens with. Only strings are parsed: they take no more memory than their text, which
    other JSON may exceed thirtyfold."""
    decoder, found, at = json.JSONDecoder(), dict[str, str](), len(_OPENING) - 2
    while text[at] in "{," and text[at + 1] == '"' and len(found) < _MOST_STRINGS:
        key, at = decoder.raw_decode(text, at + 1)
        if text[at : at + 2] != ':"':
            raise ValueError("a string was expected")
        found[key], at = decoder.raw_decode(text, at + 1)
    return found


def _header(index: _core.ProgramIndex, index_bytes: int, metadata: Mapping[str, str]) -> bytes:
    """The one header that fits an index: length, then canonical JSON, padded so that data starts on a page."""
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items())), INDEX: _entry(0, index_bytes)}
    entries |= {blob.name: _entry(blob.offset, blob.bytes) for blob in index.blobs}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=True).encode()
    text += b" " * (-(8 + len(text)) % PAGE)
    return len(text).to_bytes(8, "little") + text


def _entry(offset: int, size: int) -> dict[str, object]:
    return {"dtype": "U8", "shape": [size], "data_offsets": [offset, offset + size]}


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


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
