"""The caller's rounding mode changes no bit of a result, and is the caller's again after every call."""

import ctypes
import platform
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import edgekern as ek

FE_DOWNWARD = {"x86_64": 0x400, "aarch64": 0x800000}.get(platform.machine())
LIBM = ctypes.CDLL("libm.so.6")

RNG = np.random.default_rng(3)
X = RNG.normal(size=(9, 96)).astype(np.float32)
CODES = RNG.integers(0, 256, (9, 96), dtype=np.uint8)
BIAS = RNG.normal(size=70).astype(np.float32)
W8 = ek.pack_weights(RNG.integers(-128, 128, (96, 70), dtype=np.int8), scale=RNG.uniform(0.01, 0.03, 70).astype("f4"))
W4 = ek.pack_weights(
    RNG.integers(-8, 8, (96, 70), dtype=np.int8),
    scale=RNG.uniform(0.01, 0.03, (3, 70)).astype("f4"),
    bits=4,
    group_size=32,
)
HEADS = RNG.normal(size=(3, 1, 7, 2, 16)).astype(np.float32)
ANGLES = RNG.normal(size=(2, 1, 2, 8)).astype(np.float32)
HALF = 0.5  # scales that float32 holds exactly: what Python rounds on the way is not ours


def _ring_step() -> Any:
    cache = ek.RingKVCache(num_layers=1, num_kv_heads=2, head_dim=16, window=8, num_heads=2)
    for token in HEADS[:2, 0].swapaxes(0, 1):
        with cache.stage(1) as staged:
            staged.write(0, token[:1], token[1:])
            out = staged.attend(0, token[:1] * np.float32(2))
            staged.commit()
    return out


CALLS: dict[str, Callable[[], Any]] = {
    "linear": lambda: ek.linear(X, W8, bias=BIAS),
    "linear with a curve": lambda: ek.linear(X, W8, bias=BIAS, activation="gelu"),
    "static linear": lambda: ek.linear(CODES, W8, bias=BIAS, x_scale=HALF, x_zero_point=120, y_scale=HALF),
    "4-bit linear": lambda: ek.linear(X, W4, bias=BIAS, activation="silu"),
    "quantize_linear": lambda: ek.quantize_linear(X, HALF / 16, 128),
    "dequantize_linear": lambda: ek.dequantize_linear(CODES, HALF, 7),
    "dynamic_quantize": lambda: ek.dynamic_quantize(X),
    "attention": lambda: ek.attention(*HEADS, causal=True),
    "rotary_embedding": lambda: ek.rotary_embedding(HEADS[0], *ANGLES),
    "rms_norm": lambda: ek.rms_norm(X, X[0], eps=HALF),
    "ring cache": _ring_step,
}


def _bytes(result: Any) -> list[bytes]:
    return [array.tobytes() for array in (result if isinstance(result, tuple) else (result,))]


@pytest.fixture
def rounding_down() -> Iterator[None]:
    if FE_DOWNWARD is None:
        pytest.skip(f"the rounding modes of {platform.machine()} are not known here")
    before = LIBM.fegetround()
    yield
    LIBM.fesetround(before)


@pytest.mark.parametrize("name", CALLS)
def test_the_callers_rounding_mode_changes_no_bit(name: str, rounding_down: None) -> None:
    expected = _bytes(CALLS[name]())
    assert LIBM.fesetround(FE_DOWNWARD) == 0
    got = CALLS[name]()
    assert LIBM.fegetround() == FE_DOWNWARD
    assert _bytes(got) == expected
