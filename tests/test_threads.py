"""The package beside others: forks, spawned processes, threads of Python, torch, and threadpoolctl."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

COMMON = """
import os, sys
import numpy as np
import edgekern as ek
rng = np.random.default_rng(5)
a = rng.integers(-128, 128, (300, 320), dtype=np.int8)
b = rng.integers(-128, 128, (320, 310), dtype=np.int8)
expected = a.astype(np.int32) @ b.astype(np.int32)
packed = ek.pack_weights(b)
def right(threads=2):
    return np.array_equal(ek.matmul_integer(a, packed, num_threads=threads), expected)
"""

FORK = """
assert right()  # the pool has its threads
for _ in range(3):
    child = os.fork()
    if child == 0:
        os._exit(0 if right() and right(1) else 1)
    assert os.waitpid(child, 0)[1] == 0
assert right()
"""

SPAWN = """
if __name__ == "__main__":
    import multiprocessing
    assert right()
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        for c in pool.starmap(ek.matmul_integer, [(a, b)] * 4):  # the function itself travels by name
            assert np.array_equal(c, expected)
"""

THREADS = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(right, [1, 2, 3, 2] * 16))
"""

TORCH = """
import torch
denormals, scale = np.full((4, 320), 1.1e-38, np.float32), np.float32(1.2e-38)
left, right_ = torch.from_numpy(a), torch.from_numpy(b)
for threads in (1, 2):
    torch.set_num_threads(threads)
    ek.set_num_threads(threads)
    for _ in range(5):
        assert right(threads)
        torch.set_flush_denormal(True)  # leaves its mark on the floating-point unit
        assert np.array_equal(torch._int_mm(left, right_).numpy(), expected)
        q = ek.quantize_linear(denormals, scale)  # flushed, they would be zeros
        assert q.min() == q.max() == 1, q
        torch.set_flush_denormal(False)
child = os.fork()
if child == 0:
    os._exit(0 if right() else 1)
assert os.waitpid(child, 0)[1] == 0
"""

THREADPOOLCTL = """
import threadpoolctl
def seen():
    return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "edgekern"]
assert seen() == []
ek.register_threadpoolctl()
ek.register_threadpoolctl()
ek.set_num_threads(3)
(pool,) = seen()
assert (pool["num_threads"], pool["version"], pool["prefix"]) == (3, ek.__version__, "libedgekern"), pool
with threadpoolctl.threadpool_limits(1, user_api="edgekern"):
    assert ek.get_num_threads() == 1 and right(None)
with threadpoolctl.threadpool_limits(2):
    assert ek.get_num_threads() == 2 and right(None)
assert ek.get_num_threads() == 3
"""


PINNED = """
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
os.environ.pop("EDGEKERN_NUM_THREADS", None)
assert ek.get_num_threads() == 1
assert right(None)
"""


def run(script: str, folder: Path) -> None:
    file = folder / "script.py"
    file.write_text(COMMON + script)
    child = subprocess.run([sys.executable, str(file)], capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stdout + child.stderr


@pytest.mark.parametrize(
    "script", [FORK, SPAWN, THREADS, PINNED], ids=["fork after use", "spawn", "many threads", "one cpu of several"]
)
def test_right_answers_beside_other_processes_and_threads(script: str, tmp_path: Path) -> None:
    run(script, tmp_path)


def test_torch_in_the_same_process(tmp_path: Path) -> None:
    if importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed (pip install 'edgekern[torch]')")
    run(TORCH, tmp_path)


def test_threadpoolctl_limits_the_threads(tmp_path: Path) -> None:
    run(THREADPOOLCTL, tmp_path)
