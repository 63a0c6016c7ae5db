"""A file mapped read-only: pages come when they are touched and can be dropped again."""

from __future__ import annotations

import mmap
from pathlib import Path

import numpy as np

from edgekern.errors import ArtifactError
from edgekern.llm.encodings import Bytes


def map_file(path: Path) -> Bytes:
    """All bytes of a file, (size,) uint8, read-only. The map outlives the file's name, not its truncation in place.

    Raises
    ------
    ArtifactError
        The file is empty.
    OSError
        It cannot be opened.
    """
    with path.open("rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError as error:
            raise ArtifactError(f"llm.load: {path} is empty") from error
    return np.frombuffer(mapped, np.uint8)
