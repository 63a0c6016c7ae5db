"""SHA-256 of the core against Python's, which is another implementation: one digest for every kernel."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekern import _core
from edgekern.errors import ArgumentValueError


@pytest.fixture(params=_core.sha256_kernels())
def kernel(request) -> str:
    return request.param


def test_the_digest_is_hashlibs_for_every_short_length(kernel, rng):
    content = rng.integers(0, 256, 301, dtype=np.uint8)
    for size in range(content.size):
        assert _core.sha256(content[:size], kernel) == hashlib.sha256(content[:size]).digest(), size


@given(content=st.binary(max_size=5000), start=st.integers(0, 65))
def test_the_digest_is_hashlibs_wherever_the_bytes_start(content, start):
    data = np.frombuffer(content, np.uint8)[start:]
    wanted = hashlib.sha256(data).digest()
    assert [_core.sha256(data, kernel) for kernel in _core.sha256_kernels()] == [wanted] * len(_core.sha256_kernels())


def test_the_digest_is_hashlibs_for_many_bytes(kernel, rng):
    content = rng.integers(0, 256, (4 << 20) + 13, dtype=np.uint8)
    assert _core.sha256(content, kernel) == hashlib.sha256(content).digest()


def test_no_name_is_the_best_kernel_and_others_are_refused():
    content = np.arange(99, dtype=np.uint8)
    assert _core.sha256(content) == hashlib.sha256(content).digest()
    assert _core.sha256_kernels()[-1] == "scalar"
    with pytest.raises(ArgumentValueError, match=r"kernel must be one of sha256_kernels\(\), got 'md5'"):
        _core.sha256(content, "md5")
