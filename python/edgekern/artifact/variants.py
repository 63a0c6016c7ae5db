"""Indices of the other sizes of a program, as blobs of its file.

They differ from the first by numbers in the same places, nearly always, so a blob tells those numbers. Steps name blobs
by their place in the first index's table: there is one set.

    0 | the index | or 1 | (bytes that are the same, u32 | bytes that are not, u32 | those bytes) ...
"""

from __future__ import annotations

import numpy as np

from edgekern import _core
from edgekern.errors import ArtifactError

_WHOLE, _CHANGES = b"\0", b"\1"
_APART = 8  # what is the same between two changes and shorter than their numbers goes with them


def told_by(first: _core.ProgramIndex, other: _core.ProgramIndex) -> bytes:
    """The blob that gives ``other`` to who has ``first``."""
    base, changed = _bare(first), _bare(other)
    if len(base) != len(changed):
        return _WHOLE + changed
    a, b = np.frombuffer(base, np.uint8), np.frombuffer(changed, np.uint8)
    told, at = [_CHANGES], 0
    places = np.flatnonzero(a != b)
    for run in np.split(places, np.flatnonzero(np.diff(places) > _APART) + 1) if len(places) else ():
        begin, end = int(run[0]), int(run[-1]) + 1
        told += [_u32(begin - at), _u32(end - begin), changed[begin:end]]
        at = end
    return b"".join(told)


def index_of(first: _core.ProgramIndex, blob: bytes, data_bytes: int) -> _core.ProgramIndex:
    """What :func:`told_by` told, checked like the first index.

    Raises
    ------
    ArtifactError
        When the bytes are not what it writes, or the index is not sound.
    """
    index = _core.ProgramIndex.decode(_changed(_bare(first), blob))
    if index.blobs or index.producer != first.producer or told_by(first, index) != blob:
        raise ArtifactError("artifact: the index of another size is not what edgekern writes; write the file again")
    index.blobs, index.header_sha256 = first.blobs, first.header_sha256
    index.validate(data_bytes)
    return index


def _bare(index: _core.ProgramIndex) -> bytes:
    """An index without what it has in common with all of its file."""
    bare = _core.ProgramIndex(
        producer=index.producer,
        tensors=index.tensors,
        steps=index.steps,
        segments=index.segments,
        inputs=index.inputs,
        outputs=index.outputs,
        arena_bytes=index.arena_bytes,
    )
    return bare.encode()


def _changed(base: bytes, blob: bytes) -> bytes:
    if blob[:1] != _CHANGES:
        return blob[1:]
    found, at, read = bytearray(base), 0, 1
    while read < len(blob):
        same, count = (int.from_bytes(blob[read + i : read + i + 4], "little") for i in (0, 4))
        read, at = read + 8, at + same
        found[at : at + count] = blob[read : read + count]
        read, at = read + count, at + count
    return bytes(found)


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
