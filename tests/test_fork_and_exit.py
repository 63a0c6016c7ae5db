"""Forks, exits and second interpreters while threads are inside edgekern: an answer or a typed error, never a hang.

``python tests/test_fork_and_exit.py 50`` forks 50 times for each object and counts what the children saw.
"""

import subprocess
import sys
from pathlib import Path

import pytest

OBJECTS = """
import os, signal, sys, tempfile, threading, time, warnings
import numpy as np
import edgekern as ek
from edgekern import _core

sys.path.append("..")  # bench, which writes models
rng = np.random.default_rng(3)

def session():
    from graphs import Graph
    g = Graph()
    x = g.qdq(g.input("x", (4, 64, 28, 28)))
    for _ in range(3):
        x = g.qdq(g.op("Conv", x, g.weights(64, 64, 3, 3), pads=[1, 1, 1, 1]))
    return ek.compile(g.model(x), allow_host=False)

def host_session():
    from graphs import Graph
    g = Graph()
    x = g.op("Gemm", g.qdq(g.input("x", (256, 512))), g.weights(512, 512, axis=1))
    return ek.compile(g.model(g.op("Softmax", x)))

def of_program(program, **options):
    session = ek.InferenceSession(program, num_threads=2, **options)
    node = session.get_inputs()[0]
    x = rng.normal(size=node.shape).astype(np.float32)
    return lambda: session.run(None, {node.name: x})[0]

def arenas():
    return of_program(session(), arenas=2)

def cache():
    cache = ek.RingKVCache(num_layers=1, num_kv_heads=4, head_dim=64, window=512, max_chunk=256, num_threads=2)
    k, v, q = (rng.normal(size=(256, 4, 64)).astype(np.float32) for _ in range(3))
    def use():
        cache.reset()
        with cache.stage(256) as staged:
            staged.write(0, k, v)
            y = staged.attend(0, q)
            staged.commit()
        return y
    return use

def decoder():
    from llm_files import SMALL, random_tensors, write_llama2c
    with tempfile.TemporaryDirectory() as folder:
        from pathlib import Path
        model = ek.llm.load(write_llama2c(Path(folder) / "m.bin", SMALL, random_tensors(SMALL)), num_threads=2)
    ids = [int(i) for i in rng.integers(0, 300, 120)]
    def use():
        model.cache.reset()
        return model.logits(ids)
    return use

def histogram():
    histogram, x = ek.Histogram(), rng.normal(size=1 << 20).astype(np.float32)
    whole = ek.Histogram().update(x).count
    def use():
        histogram.update(x)
        return np.array(histogram.count % whole)
    return use

def product():
    a, b = rng.integers(-128, 128, (512, 512), dtype=np.int8), rng.integers(-128, 128, (512, 512), dtype=np.int8)
    packed = ek.pack_weights(b)
    return lambda: ek.matmul_integer(a, packed)

def dense():
    x, w = rng.normal(size=(256, 512)).astype(np.float32), rng.integers(-128, 128, (512, 512), dtype=np.int8)
    packed = ek.pack_weights(w, scale=np.full(512, 0.01, np.float32))
    return lambda: ek.linear(x, packed)

warnings.simplefilter("ignore")
made = {NAME}()
use = of_program(made) if isinstance(made, ek.Program) else made
expected = use().copy()
"""

# A thread of the parent is inside nearly always. 0: the right bits; 3: a typed error; killed: it waits for ever.
FORKS = """
stop = False
def loop():
    while not stop:
        use()
thread = threading.Thread(target=loop)
thread.start()
seen = {"right": 0, "typed error": 0}
for round in range(FORKS):
    time.sleep(0.003 * (round % 7))
    child = os.fork()
    if child == 0:
        signal.alarm(4)
        code = 1
        try:
            code = 0 if np.array_equal(use(), expected) and np.array_equal(use(), expected) else 2
        except ek.errors.EdgekernError:
            code = 3
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 3):
        stop = True
        sys.exit(f"a child ended with {status}")
    seen["right" if status == 0 else "typed error"] += 1
stop = True
thread.join()
assert np.array_equal(use(), expected)
print(seen)
"""

EXIT = """
def loop():
    while True:
        use()
for _ in range(2):
    threading.Thread(target=loop, daemon=True).start()
time.sleep(0.1)
"""

NAMES = ["session", "arenas", "host_session", "cache", "decoder", "histogram", "product", "dense"]


def run(name: str, script: str) -> str:
    code = OBJECTS.replace("{NAME}", name) + script
    child = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(__file__).parent,
    )
    assert child.returncode == 0, child.stdout + child.stderr
    return child.stdout


@pytest.mark.parametrize("name", NAMES)
def test_a_child_forked_while_a_thread_is_inside_gets_an_answer_or_an_error(name: str) -> None:
    seen = run(name, FORKS.replace("FORKS", "6"))
    if name in ("session", "arenas", "host_session", "product", "dense"):  # nothing in them is half changed
        assert seen.strip() == "{'right': 6, 'typed error': 0}"


@pytest.mark.parametrize("name", [name for name in NAMES if name != "host_session"])  # onnxruntime has ends of its own
def test_the_process_ends_well_while_a_daemon_thread_is_inside(name: str) -> None:
    assert run(name, EXIT) == ""


def test_a_second_interpreter_is_refused() -> None:
    script = """
try:
    import _xxsubinterpreters as interpreters
except ImportError:
    import _interpreters as interpreters
import edgekern
second = interpreters.create()
code = "try: import edgekern\\nexcept ImportError as error: assert 'sub-interpreter' in str(error), error\\nelse: 1 / 0"
failure = interpreters.run_string(second, code)
assert failure is None, failure
"""
    child = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=120
    )
    assert child.returncode == 0, child.stdout + child.stderr


if __name__ == "__main__":
    for name in NAMES:
        print(f"{name:14}", run(name, FORKS.replace("FORKS", sys.argv[1])).strip(), flush=True)
