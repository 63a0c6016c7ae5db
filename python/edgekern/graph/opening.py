"""Taking a model apart: from a file, bytes or a ModelProto to a :class:`Skeleton`, and where its weights lie."""

from __future__ import annotations

import math
import os
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx

from edgekern.graph.skeleton import LARGE, NUMPY_TYPES, Reader, Skeleton, Weight, as_input, copy_fields
from edgekern.graph.wire import strip_weights


def from_proto(proto: onnx.ModelProto) -> Skeleton:
    """A skeleton of a model in memory, which is left as it is; its weights are read from it."""
    bare = onnx.ModelProto()
    copy_fields(proto, bare, skip="graph")
    if proto.HasField("graph"):
        bare.graph.SetInParent()
        copy_fields(proto.graph, bare.graph, skip="initializer")
    found: dict[int, tuple[int, Reader]] = {}
    for place, tensor in enumerate(proto.graph.initializer):
        header = bare.graph.initializer.add()
        if tensor.ByteSize() < LARGE or not tensor.HasField("raw_data"):
            header.CopyFrom(tensor)
            continue
        copy_fields(tensor, header, skip="raw_data")
        found[place] = len(tensor.raw_data), _reader_of(tensor)
    return _put_aside(bare, found, in_pieces=False)


def from_bytes(content: bytes) -> Skeleton:
    """A skeleton of an encoded model."""
    stripped, places = strip_weights(BytesIO(content), len(content), LARGE)
    view = memoryview(content)
    found = {place: (size, _slice_reader(view, start)) for place, (start, size) in places.items()}
    return _put_aside(onnx.load_model_from_string(stripped), found)


def from_file(path: Path, file: BinaryIO) -> Skeleton:
    """A skeleton of an ONNX file, opened at its start, with external data or without.

    Raises
    ------
    OSError
        When a file cannot be read.
    Exception
        When it is no ONNX model; protobuf and onnx raise many.
    """
    proto, found = _taken_apart(path, file)
    files: dict[str, _File] = {}
    for place, tensor in enumerate(proto.graph.initializer):
        if tensor.data_location == onnx.TensorProto.EXTERNAL and _nbytes(tensor) >= LARGE:
            found[place] = _external(path.parent, tensor, files)
            del tensor.external_data[:]
            tensor.ClearField("data_location")
    onnx.external_data_helper.load_external_data_for_model(proto, str(path.parent))  # what is small, or in a body
    return _put_aside(proto, found)


def without_data(path: Path, file: BinaryIO) -> onnx.ModelProto:
    """A model as its file has it, without the large weights in it and without what lies in other files."""
    return _taken_apart(path, file)[0]


def _taken_apart(path: Path, file: BinaryIO) -> tuple[onnx.ModelProto, dict[int, tuple[int, Reader]]]:
    """The model without its large weights, and by their places where in the file they are."""
    known = onnx.serialization.registry.get_format_from_file_extension(path.suffix) or "protobuf"
    if known != "protobuf":  # a text format; the file's name says which
        return onnx.load_model(file, load_external_data=False), {}
    source = _File(path)
    stripped, places = strip_weights(file, source.size, LARGE)
    found = {place: (size, source.reader(start)) for place, (start, size) in places.items()}
    return onnx.load_model_from_string(stripped), found


def _put_aside(proto: onnx.ModelProto, found: dict[int, tuple[int, Reader]], *, in_pieces: bool = True) -> Skeleton:
    """Make inputs of the initializers at the places in ``found``, which have lost their data; changes ``proto``."""
    kept: list[onnx.TensorProto] = []
    weights: dict[str, Weight] = {}
    for place, tensor in enumerate(proto.graph.initializer):
        if tensor.data_location == onnx.TensorProto.DEFAULT:
            tensor.ClearField("data_location")  # onnx leaves it on what it has read from another file
        if place not in found:
            kept.append(tensor)
            continue
        size, read = found[place]
        if tensor.data_type not in NUMPY_TYPES or not tensor.name or tensor.name in weights:
            tensor.raw_data = bytes(read(0, size))
            kept.append(tensor)
            continue
        if size != _nbytes(tensor):
            raise ValueError(
                f"initializer {tensor.name!r} has {size} bytes, but {list(tensor.dims)} of "
                f"{NUMPY_TYPES[tensor.data_type]} are {_nbytes(tensor)}"
            )
        header = onnx.TensorProto()
        header.CopyFrom(tensor)
        weights[tensor.name] = Weight(header, place, read, in_pieces)
    if weights:
        graph = onnx.GraphProto()
        copy_fields(proto.graph, graph, skip="initializer")
        graph.initializer.extend(kept)
        inputs = [value for value in graph.input if value.name not in weights]
        del graph.input[:]
        graph.input.extend([*inputs, *(as_input(weight.header) for weight in weights.values())])
        proto.graph.CopyFrom(graph)
    return Skeleton(proto, weights)


def _nbytes(tensor: onnx.TensorProto) -> int:
    """Bytes of its raw data; 0 where that is not plain numbers."""
    kind = NUMPY_TYPES.get(tensor.data_type)
    return 0 if kind is None or min(tensor.dims, default=0) < 0 else math.prod(tensor.dims) * np.dtype(kind).itemsize


# --- where weights lie


def _reader_of(tensor: onnx.TensorProto) -> Reader:
    return lambda start, stop: memoryview(tensor.raw_data)[start:stop]


def _slice_reader(view: memoryview, offset: int) -> Reader:
    return lambda start, stop: view[offset + start : offset + stop]


class _File:
    """A file that must stay as it is while weights are read from it."""

    def __init__(self, path: Path) -> None:
        self.path, self._seen = path, _identity(path.stat())
        self.size = self._seen[2]

    def reader(self, offset: int) -> Reader:
        return lambda start, stop: self._read(offset + start, offset + stop)

    def _read(self, start: int, stop: int) -> memoryview:
        room = np.empty(stop - start, np.uint8)
        with self.path.open("rb", buffering=0) as file:
            if _identity(os.fstat(file.fileno())) != self._seen:
                raise OSError(f"{str(self.path)!r} was changed while weights were read from it; start again")
            file.seek(start)
            at = 0
            while at < room.size:
                count = file.readinto(room[at:].data)
                if not count:
                    raise OSError(f"{str(self.path)!r} ends at byte {start + at}, within a weight")
                at += count
        return room.data


def _identity(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _external(folder: Path, tensor: onnx.TensorProto, files: dict[str, _File]) -> tuple[int, Reader]:
    """Size and reader of a tensor's external data; onnx decides which files may be opened."""
    info = onnx.external_data_helper.ExternalDataInfo(tensor)
    if info.location not in files:
        probe = onnx.TensorProto(name=tensor.name, data_type=onnx.TensorProto.UINT8, dims=[1])
        probe.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", info.location), ("offset", "0"), ("length", "1")):
            probe.external_data.add(key=key, value=value)
        onnx.external_data_helper.load_external_data_for_tensor(probe, str(folder))
        files[info.location] = _File(folder / info.location)
    file, offset = files[info.location], int(info.offset or 0)
    size = int(info.length) if info.length is not None else file.size - offset
    if offset < 0 or size < 0 or offset + size > file.size:
        raise ValueError(
            f"initializer {tensor.name!r} lies in bytes {offset} to {offset + size} of {info.location!r}, "
            f"which has {file.size}"
        )
    return size, file.reader(offset)
