"""What a file is, by its first bytes: for the errors of loaders that were given another kind than theirs."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from edgekern import files
from edgekern.errors import ArgumentValueError, ArtifactError, CalibrationError

HEAD_BYTES = 4096

Head = bytes


@dataclass(frozen=True)
class FileKind:
    """A kind of file.

    Attributes
    ----------
    name : with its article, as in "it is a GGUF file"
    use : what to do with one
    """

    name: str
    use: str
    fits: Callable[[Head], bool]

    def __str__(self) -> str:
        return f"it is {self.name}: {self.use}"


def _begins(*magic: bytes) -> Callable[[Head], bool]:
    return lambda head: head.startswith(magic)


def _has(at: int, *magic: bytes) -> Callable[[Head], bool]:
    return lambda head: head[at:].startswith(magic)


def _is_program(head: Head) -> bool:
    return head[8:].startswith(b'{"__metadata__":{"ekm.')


def _is_packed_model(head: Head) -> bool:
    return head[8:].startswith(b'{"__metadata__":{"ekllm.')


def _is_safetensors(head: Head) -> bool:
    entry = b'"dtype":' in head and b'"data_offsets":' in head
    return entry and head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < 1 << 32


def _is_onnx(head: Head) -> bool:
    """A protobuf message whose first field is a small ``ir_version``, followed by another field of a ModelProto."""
    return (
        len(head) > 2 and head[0] == 0x08 and 0 < head[1] < 32 and head[2] in (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42)
    )


def _is_zip_of(*names: bytes) -> Callable[[Head], bool]:
    """By the name of the first file in it."""

    def fits(head: Head) -> bool:
        end = 30 + int.from_bytes(head[26:28], "little")
        return head.startswith(b"PK\x03\x04") and head[30:end].endswith(names)

    return fits


def _is_page(head: Head) -> bool:
    return head.lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _is_json_with(*words: bytes) -> Callable[[Head], bool]:
    return lambda head: head.lstrip().startswith(b"{") and all(word in head for word in words)


def _is_riff(kind: bytes) -> Callable[[Head], bool]:
    return lambda head: head.startswith(b"RIFF") and head[8:12] == kind


_EXPORT = "export the model to ONNX where it was made"
_DATA = "it is data for edgekern calibrate and evaluate; elsewhere store it in a .npy file, as the model takes it"
_LFS = "'git lfs pull' gets the file itself"
# The first that fits is meant: the narrower ones come first.
KINDS: dict[str, FileKind] = {
    "empty": FileKind("an empty file", "get or write it again", lambda head: not head),
    "zeros": FileKind("a file of zeros", "get it again, for it did not arrive", lambda h: len(h) > 64 and not any(h)),
    "ekm": FileKind("a compiled program (.ekm)", "edgekern run and edgekern.InferenceSession run it", _is_program),
    "ekllm": FileKind(
        "a language model with packed weights (.ekllm)",
        "edgekern generate and edgekern.llm.load read it",
        _is_packed_model,
    ),
    "gguf": FileKind("a GGUF file", "edgekern generate and edgekern.llm.load read it", _begins(b"GGUF")),
    "safetensors": FileKind(
        "a safetensors file",
        "edgekern generate and edgekern.llm.load read the folder that it lies in with its config.json",
        _is_safetensors,
    ),
    "onnx": FileKind("an ONNX model", "edgekern calibrate, quantize and compile take it", _is_onnx),
    "ort": FileKind("a model in onnxruntime's own format", "take the .onnx that it was made of", _has(4, b"ORTM")),
    "tflite": FileKind("a TensorFlow Lite model", "tf2onnx makes an ONNX model of it", _has(4, b"TFL3")),
    "openvino": FileKind("an XML file, perhaps an OpenVINO model", _EXPORT, _begins(b"<?xml", b"<net ")),
    "hdf5": FileKind("an HDF5 file, perhaps of Keras", _EXPORT, _begins(b"\x89HDF\r\n\x1a\n")),
    "npy": FileKind("a NumPy array (.npy)", "it is data, for edgekern calibrate and run", _begins(b"\x93NUMPY")),
    "npz": FileKind("NumPy arrays (.npz)", "they are data, for edgekern calibrate and run", _is_zip_of(b".npy")),
    "torch": FileKind(
        "a PyTorch checkpoint",
        "torch.onnx.export makes an ONNX model where the network's code is",
        _is_zip_of(b"data.pkl", b"/.format_version"),
    ),
    "zip": FileKind("a zip archive", "unpack it first", _begins(b"PK\x03\x04", b"PK\x05\x06")),
    "archive": FileKind(
        "a compressed archive",
        "unpack it first",
        _begins(b"\x1f\x8b", b"\xfd7zXZ\0", b"BZh", b"7z\xbc\xaf\x27\x1c", b"\x28\xb5\x2f\xfd"),
    ),
    "tar": FileKind("a tar archive", "unpack it first", _has(257, b"ustar")),
    "pickle": FileKind(
        "a Python pickle",
        f"edgekern reads none; {_EXPORT}",
        _begins(b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"),
    ),
    "jpeg": FileKind("a JPEG picture", _DATA, _begins(b"\xff\xd8\xff")),
    "png": FileKind("a PNG picture", _DATA, _begins(b"\x89PNG\r\n\x1a\n")),
    "gif": FileKind("a GIF picture", _DATA, _begins(b"GIF87a", b"GIF89a")),
    "webp": FileKind("a WebP picture", _DATA, _is_riff(b"WEBP")),
    "wav": FileKind("a WAV file", _DATA, _is_riff(b"WAVE")),
    "pdf": FileKind("a PDF document", "give the file that was meant", _begins(b"%PDF-")),
    "elf": FileKind("a program or library of this system", "give the file that was meant", _begins(b"\x7fELF")),
    "lfs": FileKind("a Git LFS pointer", _LFS, _begins(b"version https://git-lfs.github.com/")),
    "html": FileKind("a web page", "the download gave a page in the place of the file; get it again", _is_page),
    "ranges": FileKind(
        "a file of ranges", "edgekern quantize takes it beside the float model", _is_json_with(b'"edgekern.ranges"')
    ),
    "paths": FileKind(
        "a file of measured paths", "edgekern.InferenceSession(paths=) takes it", _is_json_with(b'"edgekern.paths"')
    ),
    "tokenizer": FileKind(
        "a tokenizer.json",
        "it belongs beside its model, or to --tokenizer",
        _is_json_with(b'"version"', b'"added_tokens"'),
    ),
    "config": FileKind(
        "the config of a Hugging Face model",
        "edgekern.llm.load reads the folder that it lies in",
        _is_json_with(b'"model_type"'),
    ),
}
JSON_KINDS = ("ranges", "paths", "tokenizer", "config")


def kind_of(head: Head | None) -> str | None:
    """The kind of a file that begins so, as a key of :data:`KINDS`; None where it is none of them."""
    if head is None:
        return None
    return next((name for name, kind in KINDS.items() if kind.fits(head)), None)


def kind_of_file(path: str | os.PathLike[str]) -> str | None:
    """The same of a file; None where it cannot be read."""
    return kind_of(_head(path))


@contextmanager
def naming_kind(source: object, wanted: str, *kinds: str) -> Iterator[None]:
    """Let an error that a loader raises about a file say what the file is, where that is another kind than it reads.

    Parameters
    ----------
    source : path of the file, or its first bytes; of anything else nothing is known
    wanted : what the loader reads, with its article
    kinds : keys of :data:`KINDS` that it reads, whose errors are left alone
    """
    try:
        yield
    except (ArtifactError, ArgumentValueError, CalibrationError) as error:
        kind = kind_of(_head(source))
        if kind is not None and kind not in kinds:
            function = str(error).partition(":")[0]
            name = "the bytes given" if isinstance(source, bytes) else repr(os.fspath(source))  # type: ignore[call-overload]
            error.args = (f"{function}: {name} is not {wanted}; {KINDS[kind]}",)
        raise


def _head(source: object) -> Head | None:
    """The first bytes of a regular file."""
    if isinstance(source, bytes):
        return source[:HEAD_BYTES]
    if not isinstance(source, (str, os.PathLike)):
        return None
    try:
        with files.open_regular(source, function="") as file:
            return file.read(HEAD_BYTES)
    except (OSError, ValueError):  # the loader's own error says so
        return None
