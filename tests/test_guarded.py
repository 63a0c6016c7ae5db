"""The guard pages guard: checked once here, because every other test would pass without them."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from guarded import guarded, guarded_empty


@pytest.mark.parametrize("side", ["end", "begin"])
@pytest.mark.parametrize("shape", [(), (0,), (7,), (3, 5), (1, 4096), (4097,)])
def test_guarded_array_equals_its_source(shape, side, rng):
    source = rng.normal(size=shape).astype(np.float32)
    np.testing.assert_array_equal(guarded(source, side), source)


def test_guarded_empty_is_writable_and_marked():
    out = guarded_empty((3, 5), np.int8)
    assert (out.view(np.uint8) == 0xA5).all()
    out[...] = 1


@pytest.mark.parametrize(("side", "step"), [("end", 7), ("begin", -1)])
def test_one_byte_past_the_array_ends_the_process(side, step):
    code = f"import ctypes, guarded, numpy as np; a = guarded.guarded(np.zeros(7, np.int8), {side!r}); "
    code += f"ctypes.string_at(a.ctypes.data + ({step}), 1)"
    child = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, check=False)
    assert child.returncode == -signal.SIGSEGV
