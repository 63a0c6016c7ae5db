"""Files, as every room opens and writes them: only regular ones, read within bounds, replaced whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import json
import mmap
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from edgekern.errors import ArgumentValueError, ArtifactError

ByteArray = npt.NDArray[np.uint8]
StrPath = str | os.PathLike[str]
Pairs = Callable[[list[tuple[str, Any]]], Any]

_SUFFIX = ".edgekern-tmp"
_NAME_CHARACTERS = 48  # of the target's name in the temporary one: with the rest it stays below 255 bytes
_KINDS = {
    stat.S_IFIFO: "a FIFO",
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


@contextmanager
def atomic_write(path: StrPath, *, function: str, inputs: Iterable[StrPath] = ()) -> Iterator[BinaryIO]:
    """Open a file that takes the place of ``path`` when the block ends, and leaves it as it was when the block raises.

    Others see the old file or the whole new one, also after a kill or a power cut. The new one keeps the old one's mode
    and, where the system allows it, its owner.

    Parameters
    ----------
    path : absent, or a regular file
    function : named in errors
    inputs : files that this one is made of, which it must not replace under any name

    Yields
    ------
    a buffered binary file to write to; it must not be closed

    Raises
    ------
    ArgumentValueError
        ``path`` is a symbolic link, FIFO, socket, device or folder, or one of ``inputs``.
    OSError
        The folder is absent, it or the old file cannot be written, or the disk is full.

    Notes
    -----
    The temporary file lies beside the target, under a name of its own, and is locked while its writer lives. What a
    killed writer left is not locked, and goes at the next save of the same target.
    """
    target = Path(path)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        old = _check(target, folder, function, inputs)
        _remove_leftovers(folder, target.name)
        name, file = _create(folder, target.name, private=old is not None)
        try:
            if old is not None:
                with suppress(OSError):
                    os.fchown(file.fileno(), old.st_uid, old.st_gid)
                os.fchmod(file.fileno(), stat.S_IMODE(old.st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.rename(name, target.name, src_dir_fd=folder, dst_dir_fd=folder)
        except BaseException as error:
            with suppress(OSError):
                os.unlink(name, dir_fd=folder)
            if isinstance(error, OSError) and error.filename in (None, name):
                error.filename, error.filename2 = str(target), None
            raise
        finally:
            with suppress(OSError):  # after a failure it may try to write once more
                file.close()
        _sync_folder(folder)
    finally:
        os.close(folder)


def check_target(path: StrPath, *, function: str, inputs: Iterable[StrPath] = ()) -> None:
    """Raise what :func:`atomic_write` would raise at its start: for work that is long, before it begins."""
    target = Path(path)
    folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _check(target, folder, function, inputs)
    finally:
        os.close(folder)


def open_regular(path: StrPath, *, function: str) -> BinaryIO:
    """Open a file to read; FIFOs, which may never answer, devices, which may never end, and the like are refused.

    Raises
    ------
    ArgumentValueError
        It is there, and is no regular file nor a link to one.
    OSError
        It cannot be opened.
    """
    _require_regular(path, os.stat(path).st_mode, function)  # a first look, as opening a device may have effects
    file = open(path, "rb", opener=_open_at_once)  # noqa: SIM115  the caller closes it
    try:
        _require_regular(path, os.fstat(file.fileno()).st_mode, function)
    except BaseException:
        file.close()
        raise
    return file


def read_bytes(path: StrPath, *, function: str, limit: int) -> bytes:
    """All bytes of a regular file. Raises ArtifactError when there are more than ``limit``, the most that it can need;
    otherwise as :func:`open_regular`."""
    with open_regular(path, function=function) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise ArtifactError(
                f"{function}: {os.fspath(path)} has {size} bytes, and such a file needs {limit} at most; it is damaged "
                "or another file"
            )
        return file.read(size)


def map_file(path: StrPath, *, function: str) -> ByteArray:
    """All bytes of a regular file, (size,) uint8, read-only; pages come when they are touched and can be dropped again.
    The map outlives the file's name, not its truncation in place. Raises as :func:`open_regular`."""
    with open_regular(path, function=function) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            return np.zeros(0, np.uint8)
        return np.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ), np.uint8)


def parse_json(text: bytes, *, most_values: int, pairs: Pairs | None = None) -> Any:
    """``json.loads`` of a text that needs no more than so many values.

    They are counted before they are made, too high rather than too low: three bytes of text, ``[],``, become seventy of
    memory. Raises ValueError or RecursionError.
    """
    values = 1 + sum(text.count(sign) for sign in (b",", b"[", b"{"))
    if values > most_values:
        raise ValueError(f"it has up to {values} values, and such a file needs {most_values} at most")
    return json.loads(text, object_pairs_hook=pairs)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)


def _require_regular(path: StrPath, mode: int, function: str) -> None:
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "no file")
        raise ArgumentValueError(
            f"{function}: {os.fspath(path)} is {kind}; only regular files are read, so copy what it gives to one"
        )


def _check(target: Path, folder: int, function: str, inputs: Iterable[StrPath]) -> os.stat_result | None:
    """The file to be replaced, or None; raises where there may be none."""
    try:
        old = os.lstat(target.name or ".", dir_fd=folder)
    except FileNotFoundError:
        old = None
    if old is not None and not stat.S_ISREG(old.st_mode):
        kind = _KINDS.get(stat.S_IFMT(old.st_mode), "no file")
        remedy = f"write to {os.path.realpath(target)}" if stat.S_ISLNK(old.st_mode) else "write to another path"
        raise ArgumentValueError(f"{function}: {target} is {kind}, and only regular files are replaced; {remedy}")
    for path in inputs:
        if old is not None and _is_file(path, old):
            raise ArgumentValueError(
                f"{function}: the output {target} is the input {os.fspath(path)}; write to another path"
            )
    if not os.access(".", os.W_OK | os.X_OK, dir_fd=folder):
        raise PermissionError(errno.EACCES, "the folder cannot be written to", str(target.parent))
    if old is not None and not os.access(target.name, os.W_OK, dir_fd=folder):
        raise PermissionError(errno.EACCES, "the file is read-only", str(target))
    return old


def _is_file(path: StrPath, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.stat(path), file)
    except OSError:
        return False


def _create(folder: int, target: str, *, private: bool) -> tuple[str, BinaryIO]:
    """A new locked file beside the target; what replaces a file is private until it has that one's mode."""
    while True:
        name = f"{_prefix(target)}{secrets.token_hex(8)}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600 if private else 0o666, dir_fd=folder)
        with suppress(OSError):  # a file system without locks: then nobody takes this file for left over, either
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return name, os.fdopen(descriptor, "wb")
        os.close(descriptor)  # another writer took it for left over before it was locked


def _prefix(target: str) -> str:
    return f".{target[:_NAME_CHARACTERS]}."


def _remove_leftovers(folder: int, target: str) -> None:
    """Remove what killed writers of this target left: temporary files that nobody holds locked."""
    ours = re.compile(re.escape(_prefix(target)) + "[0-9a-f]{16}" + re.escape(_SUFFIX))
    for name in filter(ours.fullmatch, os.listdir(folder)):
        with suppress(OSError):  # gone, another user's, or alive
            descriptor = os.open(name, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=folder)
            finally:
                os.close(descriptor)


def _sync_folder(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # not every file system knows how
            raise
