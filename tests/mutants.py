"""Mutants of the core that a count of what ran must find: ``python -m tests.mutants [WORD ...]``.

Three kinds: an operator that takes the scalar table in place of the one that it was given (one for each call of a
kernel), code that runs another path than its step states, and a step that states another path than it runs. Nearly
all keep every result right. Each is made in a copy of the checkout, built, and must fail the C++ tests of its room:
seconds each, after a build from nothing. Words choose mutants by name. One that survives, or that the code has
outgrown, makes the exit status 1.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]
HEADERS = "".join(path.read_text() for path in sorted((HERE / "csrc/kernels").glob("*.h")))
LISTS = re.findall(r"#define EK_\w+_KERNELS\(X\)((?:.*\\\n)*.*)", HEADERS)
KERNELS = re.findall(r"\bX\((\w+)\)", "".join(LISTS))
PATHS = KERNELS + re.findall(r'^ *\{"(\w+)", \{', (HERE / "tests/core/what_ran.h").read_text(), re.MULTILINE)
# The rooms that call kernels, and the tests that hold them to the tables.
TESTS = {
    "elementwise": "*test_elementwise*,*test_session*",
    "gemm": "*test_gemm*,*test_linear*,*test_session*",
    "conv": "*test_conv*,*test_session*",
    "kvcache": "*test_kvcache*",
    "decoder": "*test_decoder*",
    "program": "*test_session*,*test_golden*",
}
# Code that runs, with the same results, another path than the one that is stated: file, text, what takes its place.
OTHER_PATHS = [
    ("gemm/paths.cpp", "takes_thin, run_thin}", "takes_thin, run_tile}"),
    ("gemm/paths.cpp", "takes_gemv, run_gemv}", "takes_gemv, run_tile}"),
    ("gemm/paths.cpp", "takes_shallow, run_shallow}", "takes_shallow, run_tile}"),
]
# What a mutant no longer uses is no error.
UNUSED = "".join(f'#pragma GCC diagnostic ignored "-Wunused-{what}"\n' for what in ("parameter", "function"))
NEEDS_AVX512 = ("gemm_shallow", "run_shallow", '"shallow"')


@dataclass(frozen=True)
class Mutant:
    path: Path
    start: int
    end: int
    text: str
    kind: str

    @property
    def room(self) -> str:
        return self.path.parts[1]

    def name(self, source: str) -> str:
        line = source.count("\n", 0, self.start) + 1
        return f"{self.path}:{line}: {self.kind}: {source[self.start : self.end]} -> {self.text}"


def mutants() -> list[tuple[Mutant, str]]:
    """Each with the text of its file."""
    found: list[tuple[Mutant, str]] = []
    call = re.compile(rf"(?:\w+(?:\.|->))*kernels(?:\.|->)({'|'.join(KERNELS)})\(")
    stated = re.compile(rf'(?:return \{{?|\? |: |^ *\{{)("(?:{"|".join(PATHS)})")', re.MULTILINE)
    for room in TESTS:
        for file in sorted((HERE / "csrc" / room).rglob("*.cpp")):
            path, source = file.relative_to(HERE), file.read_text()
            for at in call.finditer(source):
                text = f"::ek::kernels(Isa::kScalar).{at[1]}("
                found.append((Mutant(path, at.start(), at.end(), text, "scalar table"), source))
            for at in stated.finditer(source):
                text = '"thin"' if at[1] == '"tile"' else '"tile"'
                found.append((Mutant(path, at.start(1), at.end(1), text, "states another path"), source))
    for name, old, new in OTHER_PATHS:
        path = Path("csrc") / name
        source = (HERE / path).read_text()
        if source.count(old) != 1:
            sys.exit(f"{path} has no single {old!r}: write this mutant anew")
        start = source.index(old)
        found.append((Mutant(path, start, start + len(old), new, "runs another path"), source))
    return found


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "CCACHE_BASEDIR": str(folder), "CCACHE_NOHASHDIR": "1"}  # where there is a ccache
    return subprocess.run([str(c) for c in command], cwd=folder, env=env, capture_output=True, text=True, check=False)


def build(copy: Path) -> str:
    """What went wrong, or nothing."""
    made = run("cmake", "--build", "--preset", "release", folder=copy)
    return "" if made.returncode == 0 else made.stdout + made.stderr


def verdict(copy: Path, room: str) -> str:
    """The first failure of the room's tests, or nothing."""
    tests = copy / "build/release/tests/core/core_tests"
    child = run(tests, f"--source-file={TESTS[room]}", "--abort-after=1", folder=copy)
    if child.returncode == 0:
        return ""
    found_by_count = r"^ *(?:values|logged):.*(?: was given, | is said, | of another table ran).*$"
    said = re.search(found_by_count, child.stdout, re.MULTILINE)
    return "counted: " + said[0].strip() if said else f"tests failed ({child.returncode})"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants whose name has one of them")
    words = parser.parse_args().words
    chosen = [(m, s) for m, s in mutants() if not words or any(word in m.name(s) for word in words)]
    wide = "avx512_vnni" in Path("/proc/cpuinfo").read_text()
    survivors = 0
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "edgekern"
        shutil.copytree(HERE, copy, ignore=shutil.ignore_patterns("build", ".git", ".venv", ".*_cache", "__pycache__"))
        print("building the tests as they are", flush=True)
        run("cmake", "--preset", "release", folder=copy).check_returncode()
        if wrong := build(copy):
            sys.exit(wrong)
        for room in TESTS:
            if failed := verdict(copy, room):
                sys.exit(f"the tests of {room} fail without a mutant: {failed}")
        for number, (mutant, source) in enumerate(chosen, 1):
            name = f"[{number}/{len(chosen)}] {mutant.name(source)}"
            if not wide and any(word in name for word in NEEDS_AVX512):
                print(f"{name}\n    left out: this machine has no kernel for it", flush=True)
                continue
            (copy / mutant.path).write_text(UNUSED + source[: mutant.start] + mutant.text + source[mutant.end :])
            wrong = build(copy)
            found = f"does not compile: {wrong[-400:]}" if wrong else verdict(copy, mutant.room)
            print(f"{name}\n    {found or 'SURVIVED'}", flush=True)
            survivors += bool(wrong) or not found
            (copy / mutant.path).write_text(source)
    print(f"{len(chosen)} mutants, {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
