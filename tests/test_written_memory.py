"""Nothing that the core hands out was left as it was found: under two fillings of fresh memory, every byte is the same.

``MALLOC_PERTURB_`` has glibc fill what it hands out and takes back with a byte; each call below returns arrays, bytes
or states of a few hundred bytes, padding included, and sizes that end inside a vector.
"""

import os
import subprocess
import sys

import pytest

CHILD = '''
import hashlib

import warnings

import numpy as np

import edgekern as ek
from edgekern import _core

rng = np.random.default_rng(3)
warnings.simplefilter("ignore")  # of the article's formats


def show(name, *values):
    """Print a digest of what a call gave."""
    digest = hashlib.sha256()
    for value in values:
        digest.update(value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode())
    print(name, digest.hexdigest())


show("unwritten", np.empty(5000, np.uint8))  # the parent looks for this difference, and for no other
for m, n, k in [(1, 1, 1), (1, 70, 37), (3, 17, 65), (7, 130, 33)]:
    a, b = rng.integers(-128, 128, (m, k), np.int8), rng.integers(-128, 128, (k, n), np.int8)
    scale = np.float32(rng.uniform(0.01, 0.02, n))
    x = np.float32(rng.normal(size=(m, k)))
    show("matmul_integer", ek.matmul_integer(a, b))
    for bits, group in [(8, None), (4, 32)]:
        shape = (-(-k // group), n) if group else n
        each = np.float32(rng.uniform(0.01, 0.02, shape))
        w = ek.pack_weights(np.clip(b, -8, 7) if bits == 4 else b, scale=each, bits=bits, group_size=group)
        show(f"linear {bits}", ek.linear(x, w), ek.linear(x, w, activation="relu"))
        show(f"packed {bits}", *_core.packed_state(w))  # padding included
    q = ek.quantize_linear(x, np.float32(0.02), np.int8(3))
    show("quantize", q, ek.dequantize_linear(q, np.float32(0.02), np.int8(3)))

histogram = ek.Histogram()
histogram.update(np.float32(rng.normal(size=1000)))
show("histogram", *histogram.state_dict().values())
for method in ("entropy", "mse", "percentile", "max"):
    show(f"threshold {method}", histogram.threshold(method))

for kind in ("float32", "int8", "k8v4", "int4", "article"):
    for head_dim in (8, 64):
        sizes = {"num_layers": 2, "num_kv_heads": 1, "num_heads": 2, "head_dim": head_dim}
        cache = ek.RingKVCache(**sizes, window=9, sinks=2, max_chunk=4, kv=kind)
        for tokens in (3, 1, 4, 4):
            k, v = (np.float32(rng.normal(size=(tokens, 1, head_dim))) for _ in range(2))
            query = np.float32(rng.normal(size=(tokens, 2, head_dim)))
            cache.begin(tokens)
            for layer in range(2):
                cache.write(layer, k, v)
                show(f"attend {kind}", cache.attend(layer, query))
            cache.commit(tokens)
        show(f"state {kind}", cache.save(), cache.keys(1, 11), cache.values(0, 11))
'''


def _run(perturb):
    environment = os.environ | {"MALLOC_PERTURB_": str(perturb), "EDGEKERN_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc fills fresh memory")
def test_no_byte_that_is_handed_out_was_never_written():
    first, second = _run(85), _run(170)
    assert len(first) > 40
    assert [line.split()[0] for line in first if line not in second] == ["unwritten"]
