"""Free dimensions of a model's inputs, and the sizes that a caller gives them."""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from edgekern.errors import ArgumentTypeError, ArgumentValueError

if TYPE_CHECKING:
    import onnx

    from edgekern.graph.skeleton import Skeleton

LARGEST_SIZE = 2**31 - 1  # steps count in int32
MOST_ELEMENTS = 2**29  # of an array that is made to look at a shape
_FIXED_KEY = "edgekern.dimensions"  # metadata: the named dimensions that were given a size
# By the name of an input, a size for each dimension, where None leaves one as it is; by that of a dimension, its size.
Shapes = Mapping[str, int | Sequence[int | None]]


def fix_dimensions(model: Skeleton, shapes: Shapes | None, *, function: str) -> Skeleton:
    """A model whose inputs have the sizes that ``shapes`` gives; a named dimension has one size everywhere.

    Raises
    ------
    ArgumentTypeError, ArgumentValueError
        When a name is neither an input's nor a dimension's, a size is no positive integer, there are more or fewer
        sizes than dimensions, or one contradicts the model or another.
    """
    proto = type(model.proto)()
    proto.CopyFrom(model.proto)
    inputs = {value.name: value for value in proto.graph.input if value.name not in model.weights}
    for value in inputs.values():
        for side in value.type.tensor_type.shape.dim:
            # Some tools write a free one so, and call all of them by the same "?".
            if (side.HasField("dim_value") and side.dim_value <= 0) or side.dim_param == "?":
                side.Clear()
    if shapes is not None:
        fixed = _fixed_before(proto)
        fixed |= _Fixing(inputs, fixed, function).fix(shapes)
        forget_inferred(proto)
        kept = [entry for entry in proto.metadata_props if entry.key != _FIXED_KEY]
        del proto.metadata_props[:]
        proto.metadata_props.extend(kept)
        if fixed:
            proto.metadata_props.add(key=_FIXED_KEY, value=json.dumps(fixed, sort_keys=True))
    _describe_inputs_again(proto.graph)
    return model.with_graph(proto)


def _fixed_before(proto: onnx.ModelProto) -> dict[str, int]:
    """Named dimensions that a model has no more, because :func:`fix_dimensions` gave them these sizes."""
    told = next((entry.value for entry in proto.metadata_props if entry.key == _FIXED_KEY), "{}")
    try:
        found = json.loads(told)
    except ValueError:
        found = {}
    return {name: size for name, size in found.items() if isinstance(size, int)} if isinstance(found, dict) else {}


def forget_inferred(proto: onnx.ModelProto) -> None:
    """Forget the shapes that somebody has inferred from other sizes of the inputs."""
    del proto.graph.value_info[:]
    for value in proto.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    _describe_inputs_again(proto.graph)


def _describe_inputs_again(graph: onnx.GraphProto) -> None:
    """Outputs that are inputs say of themselves what the inputs say: readers take the one or the other."""
    inputs = {value.name: value for value in graph.input}
    for value in graph.output:
        if value.name in inputs:
            value.CopyFrom(inputs[value.name])


def sides_of(value: onnx.ValueInfoProto) -> list[str]:
    """The dimensions of an input for messages: sizes, names, and ? for a free one without a name."""
    return [str(side.dim_value or side.dim_param or "?") for side in value.type.tensor_type.shape.dim]


class _Fixing:
    def __init__(self, inputs: Mapping[str, onnx.ValueInfoProto], before: Mapping[str, int], function: str) -> None:
        self._inputs, self._before, self._function = inputs, before, function
        self._sizes: dict[str, tuple[int, str]] = {}  # of named dimensions, and who said so

    def fix(self, shapes: Shapes) -> dict[str, int]:
        """Give the inputs their sizes; those of named dimensions come back."""
        if not isinstance(shapes, Mapping):
            raise ArgumentTypeError(
                f"{self._function}: shapes must be a mapping such as {{'input_ids': (1, 128)}}, got "
                f"{type(shapes).__name__}"
            )
        sides = [side for value in self._inputs.values() for side in value.type.tensor_type.shape.dim]
        named = {side.dim_param for side in sides if side.dim_param}
        for name, given in shapes.items():
            if isinstance(given, (str, bytes, bool)) or not isinstance(given, Sequence):
                size = self._size(name, given)
                if name in named:
                    self._name(name, size, f"shapes[{name!r}]")
                    continue
                if name in self._before and name not in self._inputs:
                    self._require_before(name, size)
                    continue
                given = (size,)
            if name not in self._inputs:
                names = sorted(named)
                raise ArgumentValueError(
                    f"{self._function}: shapes has {name!r}, but the inputs are {list(self._inputs)}"
                    + (f", and their free dimensions have the names {names}" if names else "")
                )
            self._fix_input(name, given)
        for side in sides:
            if side.dim_param in self._sizes:
                side.dim_value = self._sizes[side.dim_param][0]
        return {name: size for name, (size, _) in self._sizes.items()}

    def _require_before(self, dimension: str, size: int) -> None:
        if self._before[dimension] != size:
            raise ArgumentValueError(
                f"{self._function}: shapes[{dimension!r}] is {size}, but the model was made for "
                f"{self._before[dimension]}; give the model of before that, or the same size"
            )

    def _fix_input(self, name: str, given: Sequence[int | None]) -> None:
        kind = self._inputs[name].type.tensor_type
        if not kind.HasField("shape"):
            for _ in given:
                kind.shape.dim.add()
        elif len(given) != len(kind.shape.dim):
            raise ArgumentValueError(
                f"{self._function}: shapes[{name!r}] has {len(given)} sizes, but the input has {len(kind.shape.dim)} "
                f"dimensions: ({', '.join(sides_of(self._inputs[name]))})"
            )
        for axis, (side, size) in enumerate(zip(kind.shape.dim, given, strict=True)):
            if size is None:
                continue
            size = self._size(name, size)
            if side.dim_param:
                self._name(side.dim_param, size, f"shapes[{name!r}]")
            elif side.dim_value not in (0, size):
                raise ArgumentValueError(
                    f"{self._function}: shapes[{name!r}] has {size} for dimension {axis}, which is {side.dim_value} in "
                    "the model; only a free dimension can be given a size"
                )
            else:
                side.dim_value = size

    def _name(self, dimension: str, size: int, source: str) -> None:
        known, before = self._sizes.setdefault(dimension, (size, source))
        if known != size:
            raise ArgumentValueError(
                f"{self._function}: {source} gives the dimension {dimension!r} the size {size}, and {before} gives it "
                f"{known}; one name is one size everywhere"
            )

    def _size(self, name: str, given: object) -> int:
        try:
            size = operator.index(given)  # type: ignore[arg-type]
        except TypeError:
            size = 0
        if isinstance(given, bool) or (size == 0 and type(given) is not int):
            raise ArgumentTypeError(
                f"{self._function}: shapes[{name!r}] must be a size or a tuple of sizes, got {given!r} in it"
            )
        if not 1 <= size <= LARGEST_SIZE:
            raise ArgumentValueError(
                f"{self._function}: shapes[{name!r}] has the size {size}; sizes are at least 1 and at most "
                f"{LARGEST_SIZE}"
            )
        return size
