"""What ran: from `start` on, the kernels of every instruction set are counted where operators call them.

Tables that count and forward take the place of the core's (tests/core/counting.h). A small library puts them there; it
is compiled against the headers of this checkout, once a process, and is no part of the package.
"""

import ctypes
import functools
import os
import subprocess
import tempfile
from pathlib import Path

from edgekern import _core

HERE = Path(__file__).parent


@functools.cache
def start() -> ctypes.CDLL:
    core = Path(_core.__file__).with_name("libedgekern.so.1")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "counting.so"
        command = [*os.environ.get("CXX", "c++").split(), "-std=c++17", "-shared", "-fPIC", "-fvisibility=hidden"]
        command += [f"-I{HERE}", f"-I{HERE.parent / 'csrc'}", str(HERE / "counting.cpp"), str(core), "-o", str(built)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        assert child.returncode == 0, child.stderr
        library = ctypes.CDLL(str(built))
    library.counting_name.restype = ctypes.c_char_p
    library.counting_calls.restype = ctypes.c_uint64
    library.counting_calls.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    library.counting_name.argtypes = [ctypes.c_size_t]
    library.counting_kernels.restype = ctypes.c_size_t
    library.counting_start()
    return library


def reset() -> None:
    start().counting_reset()


def calls() -> dict[str, dict[str, int]]:
    """By instruction set and kernel, the calls since `reset`; none of those that did not run."""
    library = start()
    names = [library.counting_name(kernel).decode() for kernel in range(library.counting_kernels())]
    found = {
        isa: {name: library.counting_calls(isa.encode(), kernel) for kernel, name in enumerate(names)}
        for isa in _core.available_isas()
    }
    return {isa: ran for isa, all_ in found.items() if (ran := {name: n for name, n in all_.items() if n})}
