"""Packages that build on edgekern: the examples are built against the installed package and run, without a network."""

import ctypes
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern import _core

NOT_INSTALLED = "edgekern runs from a build tree: headers and CMake files are there only when it is installed"

SEARCH = """
import numpy as np
from int8search import Index
rng = np.random.default_rng(3)
vectors = rng.integers(-128, 128, (70, 33), dtype=np.int8)
queries = rng.integers(-128, 128, (9, 33), dtype=np.int8)
expected = queries.astype(np.int32) @ vectors.astype(np.int32).T
for given in (vectors, np.asfortranarray(vectors), vectors[::-1, ::-1][::-1, ::-1]):
    for threads in (0, 1, 2):
        out = np.zeros((9, 70), np.int32)
        Index(given).scores(queries, out, threads)
        assert np.array_equal(out, expected)
try:
    Index(vectors).scores(queries, np.zeros((9, 70), np.int32), -1)
except ValueError as error:
    assert "num_threads must be at least 0, got -1" in str(error), error
else:
    raise AssertionError("a negative thread count passed")
print("searched")
"""


@pytest.fixture(scope="module")
def installed() -> Path:
    """Where the package was installed to."""
    if not Path(ek.get_include()).is_dir():
        pytest.skip(NOT_INSTALLED)
    return Path(_core.__file__).parents[1]


def run(*command: object, **options: object) -> str:
    child = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]
    assert child.returncode == 0, child.stdout + child.stderr
    return str(child.stdout)


def test_header_and_pxd_are_installed(installed: Path) -> None:
    header = Path(ek.get_include()) / "edgekern" / "edgekern.h"
    table = re.search(r"typedef struct ek_api \{(.*?)\} ek_api;", header.read_text(), re.DOTALL)
    assert table
    functions = re.findall(r"\(\*(\w+)\)", table[1])
    assert "gemm_s32" in functions
    pxd = Path(ek.__file__).with_name("__init__.pxd").read_text()
    assert re.findall(r"\(\*(\w+)\)", pxd[pxd.index("ctypedef struct ek_api") :]) == functions


def test_a_cython_package_builds_and_multiplies(installed: Path, repository: Path, tmp_path: Path) -> None:
    source = shutil.copytree(repository / "examples" / "downstream_cython", tmp_path / "source")
    target = tmp_path / "site"
    run(
        *(sys.executable, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--quiet"),
        *("--target", target, source),
    )
    said = run(sys.executable, "-c", SEARCH, env=os.environ | {"PYTHONPATH": str(target)})
    assert said == "searched\n"


def test_a_cmake_project_builds_and_multiplies(installed: Path, repository: Path, tmp_path: Path) -> None:
    cmake = shutil.which("cmake", path=Path(sys.executable).parent) or "cmake"
    ninja = shutil.which("ninja", path=Path(sys.executable).parent) or "ninja"
    run(
        *(cmake, "-S", repository / "examples" / "downstream_cpp", "-B", tmp_path, "-G", "Ninja"),
        *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-Dedgekern_DIR={ek.get_cmake_dir()}"),
    )
    run(cmake, "--build", tmp_path)
    said = run(tmp_path / "downstream_cpp")
    assert said.startswith(f"edgekern {ek.__version__} on {ek.cpu_info()['isa']}: off by ")


def test_the_capsule_is_the_table_of_the_library() -> None:
    """Python, C and C++ share one copy of the core: a setting made through one is seen through the other."""
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    library = ctypes.CDLL(str(Path(_core.__file__).with_name("libedgekern.so.1")))
    library.edgekern_get_api.restype = ctypes.c_void_p
    table = get_pointer(ek._C_API, b"edgekern._C_API")
    assert table == library.edgekern_get_api(1)
    assert library.edgekern_get_api(2) is None
    before = ek.get_num_threads()
    library.ek_set_num_threads(before + 1)
    assert ek.get_num_threads() == before + 1
    ek.set_num_threads(before)
    assert library.ek_get_num_threads() == before
    assert np.frombuffer((ctypes.c_uint32 * 2).from_address(table), np.uint32)[0] == 1
