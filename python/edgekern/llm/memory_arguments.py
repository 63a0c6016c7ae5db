"""What ``plan_memory`` asks of its arguments."""

from __future__ import annotations

import operator
from typing import Any, SupportsIndex, cast

import numpy as np

from edgekern import _core
from edgekern._arguments import byte_count, string
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.llm.config import LIMITS, ModelConfig
from edgekern.llm.packing import GROUPS, KINDS, WeightFormat

_NAME = "plan_memory"
_MOST_BYTES = 1 << 62
_MOST_COUNT = 1 << 30
_SHAPE = ("layers", "heads", "hidden", "dim", "vocab", "context")  # what shapes alone must say
OF_SHAPES = ("layers", "heads", "kv_heads", "head_dim", "hidden", "dim", "vocab")
_LEAST = {"sinks": 0, "rewind": 0}


def device_memory(device_bytes: object, reserved_bytes: object) -> tuple[int, int]:
    device = _core.memory_limit() if device_bytes is None else byte_count(_NAME, "device_bytes", device_bytes)
    nothing = type(reserved_bytes) in (int, str) and str(reserved_bytes).strip() == "0"
    reserved = 0 if nothing else byte_count(_NAME, "reserved_bytes", reserved_bytes)
    if device > _MOST_BYTES:
        raise ArgumentValueError(f"{_NAME}: device_bytes must be at most 2^62, got {device}; give the device's memory")
    if reserved >= device:
        raise ArgumentValueError(
            f"{_NAME}: reserved_bytes must be below device_bytes, {device}, got {reserved}; nothing would be left"
        )
    return device, reserved


def refuse(given: dict[str, Any], names: tuple[str, ...], why: str) -> None:
    for name in names:
        if name in given:
            raise ArgumentValueError(f"{_NAME}: {name} {why}")


def config_of(given: dict[str, Any]) -> ModelConfig:
    if missing := [name for name in _SHAPE if name not in given]:
        raise ArgumentValueError(
            f"{_NAME}: {', '.join(missing)} must be given with shapes alone; give them, or the path of a model"
        )
    names = (*OF_SHAPES, "context")
    sizes: dict[str, Any] = {name: whole(name, given[name], LIMITS[name]) for name in names if name in given}
    dim, heads = sizes["dim"], sizes["heads"]
    if "head_dim" not in sizes and dim % heads:
        raise ArgumentValueError(
            f"{_NAME}: dim must be a multiple of heads, got dim={dim} and heads={heads}; give head_dim, too"
        )
    sizes = {"kv_heads": heads, "head_dim": dim // heads, **sizes}
    if heads % sizes["kv_heads"]:
        raise ArgumentValueError(
            f"{_NAME}: heads must be a multiple of kv_heads, {sizes['kv_heads']}, got {heads}; change one of them"
        )
    return ModelConfig(**sizes)


def form_of(given: dict[str, Any]) -> WeightFormat:
    name = string(_NAME, "weights", given.get("weights", "int8"))
    kind = next((kind for kind in KINDS if kind == name), None)
    if kind is None:
        raise ArgumentValueError(f"{_NAME}: weights must be one of {', '.join(KINDS)}, got {name!r}; take one of them")
    if "group_size" not in given:
        return WeightFormat.of(kind)
    group = whole("group_size", given["group_size"])
    if group not in GROUPS.get(kind, ()):
        rule = ", ".join(map(str, GROUPS[kind])) if kind in GROUPS else "left out"
        raise ArgumentValueError(f"{_NAME}: group_size must be {rule} with weights={kind!r}, got {group}; change one")
    return WeightFormat(kind, group)


def kv_of(value: object, config: ModelConfig) -> str:
    """A storage that a cache of this head_dim can have."""
    name = string(_NAME, "kv", value)
    if _core.kv_formats(name) is None:
        names = "float32, float16, bfloat16, int8, k8v4, int4 or article"
        raise ArgumentValueError(f"{_NAME}: kv must be {names}, got {name!r}; take one of them")
    if config.head_dim % 8 or config.head_dim > 512:
        raise ArgumentValueError(
            f"{_NAME}: head_dim must be a multiple of 8, at most 512, got {config.head_dim}; the cache has no other"
        )
    if name == "int4" and config.head_dim & (config.head_dim - 1):
        raise ArgumentValueError(
            f"{_NAME}: kv must not be 'int4' unless head_dim is a power of two, got {config.head_dim}; take 'k8v4'"
        )
    return name


def whole(name: str, value: object, most: int = _MOST_COUNT) -> int:
    least = _LEAST.get(name, 1)
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        count = operator.index(cast(SupportsIndex, value))
    except TypeError as error:
        raise ArgumentTypeError(
            f"{_NAME}: {name} must be an integer, got {type(value).__name__} {value!r}; give a whole number"
        ) from error
    if not least <= count <= min(most, _MOST_COUNT):
        raise ArgumentValueError(
            f"{_NAME}: {name} must lie in [{least}, {min(most, _MOST_COUNT)}], got {count}; give one that does"
        )
    return count
