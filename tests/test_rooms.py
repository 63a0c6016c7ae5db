"""The house stays as it was drawn: directions of imports and includes, one version, five files from call to loop."""

import re
import subprocess
import sys
import tomllib
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

import edgekern
from edgekern import _core
from edgekern.compiler.operators.table import OPERATORS

# Lowest first: a room includes itself and the rooms before it.
CPP_ROOMS = [
    *("base", "cpu", "threads", "simd", "kernels", "hash", "elementwise", "gemm", "recurrent", "conv", "calibration"),
    *("memory", "weights", "kvcache", "program", "decoder", "capi", "bindings", "tools"),
]
# MXCSR can be set by intrinsic only; it is state of the floating-point unit and no vector code.
TOUCHES_MXCSR = "base/fp_env.h"


def _sources(repository: Path) -> list[tuple[str, str]]:
    csrc = repository / "csrc"
    files = sorted(path for path in csrc.rglob("*") if path.suffix in {".h", ".cpp", ".inl"})
    assert files
    return [(path.relative_to(csrc).as_posix(), path.read_text()) for path in files]


def _room(path: str) -> str:
    return path.split("/")[0]


def test_cpp_rooms_include_only_lower_rooms(repository):
    wrong = []
    for path, text in _sources(repository):
        if _room(path) == "include":
            continue
        assert _room(path) in CPP_ROOMS, f"csrc/{path} stands in no room of the architecture"
        for included in re.findall(r'^#include "([^"]+)"', text, re.MULTILINE):
            known = _room(included) in CPP_ROOMS and "/" in included
            if included.startswith("edgekern/"):
                continue
            if not known or CPP_ROOMS.index(_room(included)) > CPP_ROOMS.index(_room(path)):
                wrong.append(f"csrc/{path} includes {included}")
    assert not wrong, "\n".join(wrong)


def test_only_kernels_and_simd_touch_intrinsics(repository):
    intrinsic = re.compile(r"<(?:\w*mmintrin|arm_neon|arm_sve)\.h>|\b_mm\d*_\w+\(|\bv\w+q_[suf]\d+\(|\b__builtin_ia32_")
    outside = [(path, text) for path, text in _sources(repository) if _room(path) not in {"simd", "kernels"}]
    assert [path for path, text in outside if intrinsic.search(text)] in ([], [TOUCHES_MXCSR])


def test_only_bindings_see_python(repository):
    sees = {_room(path) for path, text in _sources(repository) if re.search(r"#include <(pybind11|Python)", text)}
    assert sees == {"bindings"}


def test_only_kernels_get_isa_flags(repository):
    flag = re.compile(r"-m(?:avx|fma|f16c|sse|arch|cpu)")
    lists = [
        "CMakeLists.txt",
        *(path.relative_to(repository).as_posix() for path in repository.glob("*/**/CMakeLists.txt")),
    ]
    lists = [name for name in lists if not name.startswith("build")]
    flagged = [name for name in lists if flag.search((repository / name).read_text())]
    assert flagged == ["csrc/kernels/CMakeLists.txt"]
    units = re.search(r"set\(EDGEKERN_UNITS ([^)]*)\)", (repository / flagged[0]).read_text())
    assert units is not None
    here = {path.name for path in (repository / "csrc" / "kernels").glob("*.cpp")}
    hashing = {"sha256_scalar.cpp", "sha256_shani.cpp", "sha256_armv8.cpp"}  # of no instruction set of the table
    assert {*units[1].split(), "table.cpp", *hashing} == here


def test_five_files_from_the_python_call_to_the_innermost_loop(repository):
    """Each file calls into the next one: read them in this order to know how a product is made."""
    hops = {
        "python/edgekern/ops.py": [r"import public_matmul_integer as matmul_integer"],
        "csrc/bindings/bind_fastcall.cpp": [
            r'"public_matmul_integer"',
            r'"matmul_integer"',
            r'#include "gemm/gemm\.h"',
            r"\bgemm\(",
        ],
        "csrc/gemm/gemm.cpp": [r"\bgemm\(", r'#include "gemm/paths\.h"', r"path_of\(", r"path\.run\("],
        "csrc/gemm/paths.cpp": [r"\bpath_of\(", r'\{"tile", .*run_tile\}', r"kernels\.gemm_tile\("],
        "csrc/kernels/gemm_tile.inl": [r"\bgemm_tile\(", r"for \(; i < end; i \+= 4", r"\bdot\("],
    }
    assert len(hops) == 5
    for path, patterns in hops.items():
        text = (repository / path).read_text()
        assert [pattern for pattern in patterns if not re.search(pattern, text)] == [], path


@pytest.mark.parametrize(("folders", "most"), [(("csrc", "python"), 450), (("tests", "bench"), 600)])
def test_files_stay_readable(repository, folders, most):
    files = [path for folder in folders for path in (repository / folder).rglob("*")]
    code = [path for path in files if path.suffix in {".py", ".h", ".cpp", ".inl"}]
    long = {str(path.relative_to(repository)): len(path.read_text().splitlines()) for path in code}
    assert {path: lines for path, lines in long.items() if lines > most} == {}


def test_python_rooms_import_only_lower_rooms(repository):
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
    child = subprocess.run([sys.executable, "-c", code], cwd=repository, capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stdout + child.stderr


def test_python_has_no_circle():
    """Imports that only the type checker sees are imports; the package's own page names all rooms and is not asked."""
    graph = grimp.build_graph("edgekern", exclude_type_checking_imports=False)
    modules = graph.modules - {"edgekern"}
    TopologicalSorter({m: graph.find_modules_directly_imported_by(m) & modules for m in modules}).prepare()
    assert len(modules) > 90


def test_few_rooms_know_onnx_operators_by_name(repository):
    """Their files in compiler/operators and floats and the families in graph/ do. Whoever else needs one is listed."""
    names = "|".join(OPERATORS)
    known = {}
    for path in (repository / "python" / "edgekern").rglob("*.py"):
        room = path.relative_to(repository / "python" / "edgekern").as_posix().split("/")[0]
        if room != "graph" and path.parent.name not in ("operators", "floats"):
            known.setdefault(room, set()).update(re.findall(rf'"({names})"', path.read_text()))
    assert {room: found for room, found in known.items() if found} == {
        "artifact": {"DequantizeLinear", "Transpose"},  # what opening a host model may compute of its constants
        # What it emits by itself; constants stay quantized.
        "compiler": {"Conv", "DequantizeLinear", "Pad", "Transpose"}
        | {"Add", "Div", "Mul", "Pow", "Reciprocal", "ReduceMean", "Sqrt", "Sub"}  # as which norms are written out
        | {"Squeeze"}  # for the definition of AffineGrid
        | {"Gather"}  # that ends a run in which a body of an If is decided for that cannot run
        # Behind the weights of an LSTM of onnxruntime, and what stands between the products of an attention.
        | {"MatMul", "Reshape", "Softmax", "Unsqueeze"},
        # It rewrites products and writes Q and DQ; which operands of Add and Concat are data.
        "quantization": {
            "Conv",
            "ConvTranspose",
            "Gemm",
            "MatMul",
            "Add",
            "Concat",
            "QuantizeLinear",
            "DequantizeLinear",
        }
        | {"Mul", "Div"}  # by which factors of channels go into constants
        | {"Identity", "Transpose"}  # moves that it leaves alone, or that keep float
        | {"Pow"}  # whose exponent says whether a front end is one
        | {"Reshape"},  # which parts the scales of two directions
    }


def test_base_install_needs_numpy_only():
    """ops, artifact and runtime import with nothing but NumPy and the standard library at hand."""
    code = """
import sys
import numpy
before = set(sys.modules)
class OnlyNumPy:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names | {"numpy", "edgekern", "_distutils_hack"}:
            raise ModuleNotFoundError(f"{name} is not part of the base install", name=top)
sys.meta_path.insert(0, OnlyNumPy())
import edgekern, edgekern.ops, edgekern.artifact, edgekern.runtime, edgekern.cli
edgekern.matmul_integer(numpy.ones((2, 3), numpy.int8), numpy.ones((3, 2), numpy.int8))
assert edgekern.cli.run(["info"]) == 0
tops = {name.partition(".")[0] for name in set(sys.modules) - before}
assert not tops & {"onnx", "onnx_ir", "onnxruntime", "torch", "typer", "rich"}, tops
"""
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert child.returncode == 0, child.stderr


def test_python_and_cpp_have_one_version(repository):
    declared = tomllib.loads((repository / "pyproject.toml").read_text())["project"]["version"]
    assert edgekern.__version__ == _core.__version__ == declared
    assert f"## {declared}" in (repository / "CHANGELOG.md").read_text()


def _python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def test_readme_example_runs_as_it_is_printed(repository, tmp_path):
    blocks = _python_blocks(repository / "README.md")
    assert blocks
    assert len(blocks[0].strip().splitlines()) == 12
    for block in blocks:
        child = subprocess.run(
            [sys.executable, "-W", "error", "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert child.returncode == 0, child.stderr
    assert (tmp_path / "digits.ekm").stat().st_size > 0
