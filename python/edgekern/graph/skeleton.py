"""A model whose large weights stand aside: what is worked on, checked and handed to onnxruntime is small.

Shape inference, the checker, the version converter and onnxruntime take a model as bytes, and one protobuf message ends
at 2 GiB. Large weights are therefore inputs of the graph here, and stay where they are (in the file, in a file
beside it, in the caller's model) until somebody wants one of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from edgekern.graph.wire import encode_field, encode_initializers

if TYPE_CHECKING:
    import onnx_ir as ir

Array = npt.NDArray[Any]

# From so many bytes on, a weight stands aside. What shapes are made of is smaller, and inference wants to see it.
LARGE = 1024
# Hashes read files in pieces of so many bytes.
_PIECE = 1 << 22
NUMPY_TYPES = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.DOUBLE: "float64",
    onnx.TensorProto.BOOL: "bool",
    **{
        getattr(onnx.TensorProto, f"{sign}INT{bits}"): f"{sign.lower()}int{bits}"
        for sign in ("", "U")
        for bits in (8, 16, 32, 64)
    },
}

# Gives the bytes [start, stop) of a weight.
Reader = Callable[[int, int], "bytes | memoryview"]


@dataclass(frozen=True, eq=False)
class Weight:
    """An initializer that is read when it is wanted.

    Attributes
    ----------
    header : onnx.TensorProto without data
    place : among the initializers of the model
    read : gives its bytes from one place to another
    in_pieces : whether reading a part costs no more than that part
    """

    header: onnx.TensorProto
    place: int
    read: Reader = field(repr=False)
    in_pieces: bool = True

    @property
    def name(self) -> str:
        return self.header.name

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.header.dims)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(NUMPY_TYPES[self.header.data_type])

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def array(self) -> Array:
        """The values, aligned."""
        content = np.frombuffer(self.read(0, self.nbytes), np.uint8)
        if content.ctypes.data % self.dtype.itemsize:
            content = content.copy()
        return content.view(self.dtype).reshape(self.shape)

    def pieces(self) -> Iterator[bytes | memoryview]:
        """All bytes, a few at a time where that is possible."""
        step = _PIECE if self.in_pieces else self.nbytes
        for start in range(0, self.nbytes, step):
            yield self.read(start, min(start + step, self.nbytes))

    def encoded_around(self) -> tuple[bytes, bytes]:
        """What stands before and behind the data where the tensor is encoded with it, as :func:`without_story`."""
        low, high, raw = onnx.TensorProto(), onnx.TensorProto(), onnx.TensorProto.RAW_DATA_FIELD_NUMBER
        for descriptor, value in without_story(self.header).ListFields():
            _set_field(low if descriptor.number < raw else high, descriptor.name, value)
        before, after = (part.SerializeToString(deterministic=True) for part in (low, high))
        return before + encode_field(raw, self.nbytes), after

    def tensor(self) -> ir.TensorProtocol:
        """For onnx_ir; read each time that it is asked."""
        import onnx_ir as ir

        dtype = ir.DataType(self.header.data_type)
        return ir.LazyTensor(
            lambda: ir.Tensor(self.array(), name=self.name), dtype, ir.Shape(self.shape), name=self.name
        )


@dataclass(eq=False)
class Skeleton:
    """A model and, by name, the weights that are inputs in it.

    Attributes
    ----------
    proto : onnx.ModelProto
        The last inputs of its graph are the weights.
    weights : dict of name to :class:`Weight`
    """

    proto: onnx.ModelProto
    weights: dict[str, Weight]

    @property
    def inputs(self) -> list[onnx.ValueInfoProto]:
        """The inputs that a caller feeds."""
        return [value for value in self.proto.graph.input if value.name not in self.weights]

    def with_graph(self, proto: onnx.ModelProto) -> Skeleton:
        """The same weights around a model that was made of this one."""
        return Skeleton(proto, self.weights)

    def initializers(self) -> Iterator[onnx.TensorProto | Weight]:
        """In the order of the model."""
        aside = sorted(self.weights.values(), key=lambda weight: weight.place)
        count = 0
        for tensor in self.proto.graph.initializer:
            while aside and aside[0].place <= count:
                yield aside.pop(0)
                count += 1
            yield tensor
            count += 1
        yield from aside

    def add_constant(self, array: Array, name: str) -> None:
        """One initializer more."""
        header = onnx.numpy_helper.from_array(array[:0] if array.ndim else array, name)
        if array.nbytes < LARGE or header.data_type not in NUMPY_TYPES:
            self.proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
            return
        header.ClearField("raw_data")
        header.dims[:] = array.shape
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
        self.add_weight(Weight(header, 1 << 62, lambda start, stop: content[start:stop]))

    def add_weight(self, weight: Weight) -> None:
        """The same, of data that stays where it is."""
        self.weights[weight.name] = weight
        self.proto.graph.input.append(as_input(weight.header))

    def to_proto(self) -> onnx.ModelProto:
        """All in one message."""
        whole = onnx.ModelProto()
        copy_fields(self.proto, whole, skip="graph")
        copy_fields(self.proto.graph, whole.graph, skip="initializer")
        del whole.graph.input[:]
        whole.graph.input.extend(self.inputs)
        for source in self.initializers():
            tensor = whole.graph.initializer.add()
            tensor.CopyFrom(source.header if isinstance(source, Weight) else source)
            if isinstance(source, Weight):
                tensor.raw_data = bytes(source.read(0, source.nbytes))
        return whole

    def to_ir(self) -> ir.Model:
        """As onnx_ir has it, the weights as initializers that are read when they are asked for."""
        import onnx_ir as ir

        model = ir.serde.deserialize_model(self.proto)
        graph = model.graph
        values = {str(value.name): value for value in (*graph.inputs, *graph.initializers.values())}
        order = [values[source.name] for source in self.initializers()]
        inputs = [value for value in graph.inputs if value.name not in self.weights]
        graph.inputs.clear()
        graph.inputs.extend(inputs)
        graph.initializers.clear()
        for value in order:
            if value.name in self.weights:
                value.const_value = self.weights[value.name].tensor()
            graph.register_initializer(value)
        return model

    @staticmethod
    def of_ir(model: ir.Model) -> Skeleton:
        """A skeleton of what onnx_ir holds, which is left as it is."""
        import onnx_ir as ir

        graph = model.graph
        initializers, inputs = list(graph.initializers.values()), list(graph.inputs)
        aside = [value for value in initializers if _is_large(value)]
        try:
            for value in aside:
                graph.initializers.pop(str(value.name))
                assert value.const_value is not None
                value.type = value.type or ir.TensorType(value.const_value.dtype)
                value.shape = value.shape or ir.Shape(value.const_value.shape.numpy())
            graph.inputs.extend(aside)
            proto = ir.serde.serialize_model(model)
        finally:
            graph.inputs.clear()
            graph.inputs.extend(inputs)
            graph.initializers.clear()
            for value in initializers:
                graph.register_initializer(value)
        return Skeleton(proto, {str(value.name): _weight_of(value) for value in aside})


@dataclass(frozen=True, eq=False)
class Encoded:
    """A model with its weights as one protobuf message that nobody has to hold whole."""

    parts: tuple[bytes, ...]
    weights: tuple[Weight, ...]

    @staticmethod
    def of(skeleton: Skeleton) -> Encoded:
        plain = onnx.ModelProto()
        plain.CopyFrom(skeleton.proto)
        del plain.graph.input[:]
        plain.graph.input.extend(skeleton.inputs)
        weights = tuple(skeleton.weights.values())
        headers = [weight.header.SerializeToString(deterministic=True) for weight in weights]
        parts = encode_initializers(headers, [weight.nbytes for weight in weights])
        return Encoded((plain.SerializeToString(), *parts), weights)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + sum(weight.nbytes for weight in self.weights)

    def write_to(self, room: npt.NDArray[np.uint8]) -> None:
        """Fill ``room``, which has as many bytes."""
        at = 0
        for number, part in enumerate(self.parts):
            pieces = self.weights[number - 1].pieces() if number else ()
            # the first part is the model; behind each other one comes the data of its weight
            for piece in (part, *pieces):
                room[at : at + len(piece)] = np.frombuffer(piece, np.uint8)
                at += len(piece)


def without_story(message: Any) -> Any:
    """A message without what does not change what it computes: its doc string, and where a tensor's data lay."""
    plain = type(message)()
    plain.CopyFrom(message)
    if getattr(plain, "doc_string", ""):
        plain.ClearField("doc_string")
    if isinstance(plain, onnx.TensorProto):
        plain.ClearField("data_location")
    return plain


def as_input(header: onnx.TensorProto) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(header.name, header.data_type, list(header.dims))


def copy_fields(source: Any, target: Any, *, skip: str) -> None:
    """Copy all fields of a message but one."""
    for descriptor, value in source.ListFields():
        if descriptor.name != skip:
            _set_field(target, descriptor.name, value)


def _set_field(target: Any, name: str, value: Any) -> None:
    if hasattr(value, "extend"):
        getattr(target, name).extend(value)
    elif hasattr(value, "CopyFrom"):
        getattr(target, name).CopyFrom(value)
    else:
        setattr(target, name, value)


def _is_large(value: ir.Value) -> bool:
    tensor = value.const_value
    return tensor is not None and tensor.nbytes >= LARGE and int(tensor.dtype) in NUMPY_TYPES


def _weight_of(value: ir.Value) -> Weight:
    tensor = value.const_value
    assert tensor is not None
    header = onnx.TensorProto(name=str(value.name), dims=tensor.shape.numpy(), data_type=int(tensor.dtype))
    return Weight(header, 1 << 62, lambda start, stop: memoryview(tensor.tobytes())[start:stop], in_pieces=False)
