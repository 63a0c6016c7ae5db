"""Encodings: what the integers of each tensor stand for, and what quantization and other tools' files exchange."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from edgekern._arguments import flag, integer, integers, string
from edgekern.errors import ArgumentTypeError, ArgumentValueError, QuantizationError

# The smallest scale that is a normal float32: below it 1 / scale overflows and the scale itself loses digits.
MIN_SCALE = float(np.finfo(np.float32).tiny)
MAX_SCALE = float(np.finfo(np.float32).max)

_WIDTHS = (*range(2, 9), 16)  # bits of a code
_FLOATS: Mapping[int, type[np.floating]] = {16: np.float16, 32: np.float32}

_FORMAT = "edgekern.encodings"
_VERSION = 1


@dataclass(frozen=True, eq=False, init=False)
class Encoding:
    """How integers stand for one tensor: ``real = (code - zero_point) * scale``.

    It has one scale for the whole tensor, one for each index along ``axis``, or one for each ``group_size`` indices
    along ``axis`` at every place of the other axes, as ONNX has them. It never changes and is checked here, once: who
    holds one need not look.

    Parameters
    ----------
    scale : float or array
        Of shape (), (channels,), or that of the tensor with ``axis`` counted in groups, the last of which may be short.
        Kept as float32; a positive, normal one, neither infinite nor NaN.
    zero_point : int or array of them, optional. One for all scales, or one a scale; a value that the codes can have.
    signed : bool. Whether codes lie in [-128, 127] or in [0, 255], or what other bits have.
    bits : int. From 2 to 8, or 16.
    axis : int, optional. Not negative.
    group_size : int, optional. With an axis alone.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When something is of another type, or contradicts the rest.
    """

    scale: npt.NDArray[np.float32]
    zero_point: npt.NDArray[np.int32]
    signed: bool
    bits: int
    axis: int | None
    group_size: int | None

    def __init__(
        self,
        scale: npt.ArrayLike,
        zero_point: npt.ArrayLike = 0,
        *,
        signed: bool,
        bits: int = 8,
        axis: int | None = None,
        group_size: int | None = None,
    ) -> None:
        def keep(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        keep("signed", flag("Encoding", "signed", signed))
        keep("bits", integer("Encoding", "bits", bits))
        keep("axis", None if axis is None else integer("Encoding", "axis", axis))
        keep("group_size", None if group_size is None else integer("Encoding", "group_size", group_size))
        keep("scale", _checked_scale(scale))
        self._check_granularity()
        keep("zero_point", self._checked_zero_point(zero_point))

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        first = -(1 << (self.bits - 1)) if self.signed else 0
        return first, first + (1 << self.bits) - 1

    @property
    def dtype(self) -> np.dtype[np.integer[Any]]:
        """Of an array of codes: the smallest of NumPy's that holds them."""
        return np.dtype(f"{'' if self.signed else 'u'}int{8 if self.bits <= 8 else 16}")

    @property
    def max_distance(self) -> int:
        """The largest ``|code - zero_point|``."""
        lowest, highest = self.limits
        return int(np.maximum(self.zero_point - lowest, highest - self.zero_point).max(initial=0))

    def quantize(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.integer[Any]]:
        """The codes of finite values: divided, rounded half to even, shifted and clamped, in float64."""
        scale, zero_point = (self._spread(of, values.shape) for of in (self.scale, self.zero_point))
        ratio = values.astype(np.float64) / scale.astype(np.float64)
        codes: npt.NDArray[Any] = np.clip(np.rint(ratio) + zero_point, *self.limits).astype(self.dtype)
        return codes

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers and lists, as JSON has them; :meth:`from_dict` is the way back, to the same bits."""
        return {
            "bits": self.bits,
            "signed": self.signed,
            "scale": self.scale.tolist(),
            "zero_point": self.zero_point.tolist(),
            "axis": self.axis,
            "group_size": self.group_size,
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        if not isinstance(saved, Mapping):
            raise ArgumentTypeError(f"Encoding: a saved one must be a dict, got {type(saved).__name__}")
        names = {"bits", "signed", "scale", "zero_point", "axis", "group_size"}
        if different := names ^ set(saved):
            odd = min(map(str, different))
            raise ArgumentValueError(
                f"Encoding: a saved one has the keys {sorted(names)}, and {odd!r} is missing or unknown"
            )
        return cls(**saved)

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Encoding) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> tuple[Any, ...]:
        return Encoding.from_dict, (self.to_dict(),)  # an array in a pickle could be written to afterwards

    def _key(self) -> tuple[object, ...]:
        arrays = self.scale.shape, self.scale.tobytes(), self.zero_point.tobytes()
        return (self.bits, self.signed, self.axis, self.group_size, *arrays)

    def _check_granularity(self) -> None:
        shape, axis = self.scale.shape, self.axis
        if self.bits not in _WIDTHS:
            raise ArgumentValueError(f"Encoding: bits must be from 2 to 8, or 16, got {self.bits}")
        if axis is None:
            if shape != () or self.group_size is not None:
                raise ArgumentValueError(
                    f"Encoding: axis must be given where there is a scale for each channel or group, got a scale of "
                    f"shape {shape}, group_size={self.group_size} and no axis"
                )
        elif self.group_size is None:
            if len(shape) != 1 or axis < 0:
                raise ArgumentValueError(
                    f"Encoding: scale along an axis must have shape (channels,) and axis be at least 0, got shape "
                    f"{shape} and axis={axis}"
                )
        elif not (0 <= axis < len(shape) and self.group_size >= 1):
            raise ArgumentValueError(
                f"Encoding: scale of groups must have the tensor's axes and group_size be at least 1, got shape "
                f"{shape}, axis={axis} and group_size={self.group_size}"
            )

    def _checked_zero_point(self, zero_point: npt.ArrayLike) -> npt.NDArray[np.int32]:
        given = integers("Encoding", "zero_point", zero_point)
        lowest, highest = self.limits
        if given.shape not in ((), self.scale.shape):
            raise ArgumentValueError(
                f"Encoding: zero_point must be one value or have the shape of scale, got shape {given.shape} for "
                f"{self.scale.shape}"
            )
        if np.any((given < lowest) | (given > highest)):
            raise ArgumentValueError(
                f"Encoding: zero_point must lie in [{lowest}, {highest}], got {int(given.min())}..{int(given.max())}"
            )
        return _frozen(np.broadcast_to(given, self.scale.shape).astype(np.int32))

    def _spread(self, values: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """One value a scale, laid out to broadcast against a tensor."""
        if self.axis is None:
            return values
        size = shape[self.axis] if self.axis < len(shape) else -1
        if self.group_size is None:
            if size == len(values):
                return values.reshape(-1, *[1] * (len(shape) - self.axis - 1))
        elif values.shape == (*shape[: self.axis], math.ceil(size / self.group_size), *shape[self.axis + 1 :]):
            spread = np.repeat(values, self.group_size, axis=self.axis)
            return np.take(spread, range(size), axis=self.axis)
        raise ArgumentValueError(
            f"Encoding.quantize: values of shape {shape} do not fit scales of shape {values.shape}, axis={self.axis}, "
            f"group_size={self.group_size}"
        )


@dataclass(frozen=True)
class FloatEncoding:
    """How floats stand for one tensor: each by the nearest that the type has.

    Parameters
    ----------
    bits : int. 16 (IEEE half precision), or 32.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When ``bits`` is none of them.
    """

    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer("FloatEncoding", "bits", self.bits))  # as JSON has it
        if self.bits not in _FLOATS:
            raise ArgumentValueError(f"FloatEncoding: bits must be 16 or 32, got {self.bits}")

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Of an array of rounded values."""
        return np.dtype(_FLOATS[self.bits])

    def quantize(self, values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        """The values in that type, rounded half to even; what is too large becomes infinite."""
        with np.errstate(over="ignore"):
            rounded: npt.NDArray[np.floating] = values.astype(self.dtype)
        return rounded

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON has them; :meth:`from_dict` is the way back."""
        return {"float": self.bits}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave."""
        if not isinstance(saved, Mapping) or set(saved) != {"float"}:
            raise ArgumentValueError(
                f"FloatEncoding: a saved one must be a dict with the key 'float' alone, got {saved!r}"
            )
        return cls(saved["float"])


def encoding_from_dict(saved: Mapping[str, Any]) -> Encoding | FloatEncoding:
    """Read what ``to_dict`` of either gave."""
    floats = isinstance(saved, Mapping) and "float" in saved
    return FloatEncoding.from_dict(saved) if floats else Encoding.from_dict(saved)


@dataclass(frozen=True, repr=False)
class Encodings(Mapping[str, Encoding | FloatEncoding]):
    """The encoding of every quantized tensor of one model, by name: a mapping that compares and becomes a plain dict.

    Activations go by their names in the float model. So do weights, or by ``<result>_weight`` where a
    BatchNormalization or a factor was folded into them. Where several operators read one constant and make different
    integers of it, the first one's has its name alone, the others' have their results' names behind a colon. Biases
    have no encoding of their own: their scale is the product of two others.

    Attributes
    ----------
    tensors : mapping of tensor name to :class:`Encoding`, or to :class:`FloatEncoding` where floats are kept
    model_hash : str. Of the float model; see :func:`edgekern.calibration.model_hash`.
    """

    tensors: Mapping[str, Encoding | FloatEncoding]
    model_hash: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "tensors", dict(self.tensors))
        string("Encodings", "model_hash", self.model_hash)
        for name, encoding in self.tensors.items():
            string("Encodings", "a name of tensors", name)
            if not isinstance(encoding, (Encoding, FloatEncoding)):
                raise ArgumentTypeError(
                    f"Encodings: tensors[{name!r}] must be an Encoding or FloatEncoding, got {type(encoding).__name__}"
                )

    def __getitem__(self, name: str) -> Encoding | FloatEncoding:
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    def __repr__(self) -> str:
        return f"Encodings({len(self)} tensors, model_hash='{self.model_hash[:12]}...')"

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, as JSON has them; :meth:`from_dict` is the way back."""
        tensors = {name: encoding.to_dict() for name, encoding in self.items()}
        return {"format": _FORMAT, "version": _VERSION, "model_hash": self.model_hash, "tensors": tensors}

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> Self:
        """Read what :meth:`to_dict` gave.

        Raises
        ------
        QuantizationError
            When it is no such dict, or an encoding in it contradicts itself.
        """
        try:
            if saved["format"] != _FORMAT or saved["version"] != _VERSION:
                raise ValueError(f"format {saved['format']!r}, version {saved['version']!r}")
            tensors = {name: encoding_from_dict(encoding) for name, encoding in saved["tensors"].items()}
            return cls(tensors, saved["model_hash"])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise QuantizationError(
                f"Encodings.from_dict: this is not what to_dict gave in version {_VERSION} ({error!r})"
            ) from error


def _checked_scale(given: object) -> npt.NDArray[np.float32]:
    try:
        array = np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise ArgumentTypeError("Encoding: scale must be a number or an array of them") from error
    if array.dtype.kind not in "fiu":
        raise ArgumentTypeError(f"Encoding: scale must be a number or an array of them, got {array.dtype}")
    if array.size == 0:
        raise ArgumentValueError(f"Encoding: scale must have an entry, got the shape {array.shape}")
    with np.errstate(over="ignore"):
        scale = _frozen(array.astype(np.float32))
    if not np.all((scale >= np.float32(MIN_SCALE)) & (scale <= np.float32(MAX_SCALE))):
        raise ArgumentValueError(
            f"Encoding: scale must be a positive, normal float32, got {float(array.min())!r}..{float(array.max())!r}"
        )
    return scale


def _frozen(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """A copy that nobody can make writable again, as its memory belongs to a bytes object."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)
