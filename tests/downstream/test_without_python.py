"""The engine without Python: ekrun, EdgeInfer and the example give Python's bits, and refuse what Python refuses."""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from bench.__main__ import main as bench
from edgekern import _core
from edgekern.errors import EdgekernWarning, WidenedScaleWarning

import real_models
from graphs import Graph
from sized_models import quantized_cnn

PACKAGE = Path(_core.__file__).parent
HERE = Path(__file__).parent
BARE = {"LC_ALL": "C"}  # no PATH, and so no Python

pytestmark = pytest.mark.skipif(
    not (PACKAGE / "include").is_dir(),
    reason="edgekern runs from a build tree: headers and CMake files are there only when it is installed",
)


def call(*command: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


def run(*command: object, **options: object) -> str:
    child = call(*command, **options)
    assert child.returncode == 0, child.stdout + child.stderr
    return str(child.stdout)


def ekrun(*words: object) -> subprocess.CompletedProcess[str]:
    return call(PACKAGE / "bin" / "ekrun", *words, env=BARE)


def compiled(source: real_models.Source) -> ek.Program:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", WidenedScaleWarning)  # of MobileNetV2, three layers
        return ek.compile(real_models.quantized_by_edgekern(source, signed=False), allow_host=False)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("digits") / "digits.ekm"
    compiled(real_models.digits()).save(path)
    return path


@pytest.fixture(scope="module")
def mobilenet(test_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobilenet") / "mobilenetv2.ekm"
    compiled(real_models.real("mobilenetv2", test_data)).save(path)
    return path


def by_ekrun(path: Path, feeds: list[np.ndarray], outputs: int, folder: Path, *options: str) -> list[np.ndarray]:
    given = [folder / f"in{i}.npy" for i in range(len(feeds))]
    results = [folder / f"out{i}.npy" for i in range(outputs)]
    for name, array in zip(given, feeds, strict=True):
        np.save(name, array)
    child = ekrun(path, *given, *(word for name in results for word in ("-o", name)), *options)
    assert child.returncode == 0, child.stderr
    return [np.load(name) for name in results]


def assert_same(path: Path, feeds: list[np.ndarray], folder: Path, mode: str | None = None) -> None:
    session = ek.InferenceSession(path, mode=mode)
    expected = session.run(None, dict(zip((one.name for one in session.get_inputs()), feeds, strict=True)))
    found = by_ekrun(path, feeds, len(expected), folder, *(("--mode", mode) if mode else ()))
    for one, other in zip(expected, found, strict=True):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@pytest.mark.parametrize("name", ["digits", "kws", "mobilenetv2"])
def test_ekrun_gives_the_bits_of_python(name: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    source = real_models.digits() if name == "digits" else real_models.real(name, request.getfixturevalue("test_data"))
    compiled(source).save(tmp_path / "model.ekm")
    assert_same(tmp_path / "model.ekm", list(source.feeds[1].values()), tmp_path)


@pytest.mark.parametrize("name", ["every_step", "float_image", "float_sentence", "float_sound"])
def test_ekrun_takes_inputs_and_outputs_of_all_kinds(name: str, tmp_path: Path) -> None:
    path = HERE.parent / "golden" / f"{name}.ekm"
    raw, feeds = (path.with_suffix(".inputs")).read_bytes(), []
    for info in ek.Program.load(path).inputs:
        count = int(np.prod(info.shape))
        feeds.append(np.frombuffer(raw, info.dtype, count).reshape(info.shape))
        raw = raw[feeds[-1].nbytes :]
    assert_same(path, feeds, tmp_path)


def test_every_size_and_every_mode_runs(tmp_path: Path, rng: np.random.Generator) -> None:
    eight = quantized_cnn()
    program = ek.compile(eight, batch=(1, 2, 4))
    program.save(tmp_path / "sizes.ekm")
    for one in program.variants:
        assert_same(tmp_path / "sizes.ekm", [rng.normal(size=i.shape).astype(i.dtype) for i in one.inputs], tmp_path)
    modes = ek.compile_modes({"fast": eight, "whole": real_models.onnx.load(_float_cnn(tmp_path))}, batch=(1, 2))
    modes.save(tmp_path / "modes.ekm")
    for one in modes.variants:
        feeds = [rng.normal(size=i.shape).astype(i.dtype) for i in one.inputs]
        for mode in ("fast", "whole"):
            assert_same(tmp_path / "modes.ekm", feeds, tmp_path, mode)
    child = ekrun(tmp_path / "modes.ekm", tmp_path / "in0.npy", "--mode", "slow")
    assert child.returncode == 1
    assert "mode must be one of the model's, got 'slow'; it has 'fast', 'whole'" in child.stderr


def _float_cnn(folder: Path) -> Path:
    from sized_models import cnn

    real_models.onnx.save(cnn(), folder / "float.onnx")
    return folder / "float.onnx"


def test_a_host_step_is_refused_by_name(tmp_path: Path) -> None:
    g = Graph(seed=1, opset=17)
    model = g.model(g.op("Det", g.op("Relu", g.input("x", [2, 3, 3]))))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)  # that says so already
        program = ek.compile(model, allow_host=True)
    program.save(tmp_path / "host.ekm")
    child = ekrun(tmp_path / "host.ekm")
    assert child.returncode == 1
    assert "has host steps, which Python's InferenceSession runs: " in child.stderr
    assert program.host_steps[0].name in child.stderr
    assert "Det" in child.stderr


def test_ekrun_says_what_is_wrong(digits: Path, tmp_path: Path) -> None:
    image = tmp_path / "image.npy"
    np.save(image, np.zeros((1, 1, 8, 8), np.float32))

    def refused(words: str, *command: object, status: int = 1) -> None:
        child = ekrun(*command)
        assert (child.returncode, child.stdout) == (status, "")
        assert words in child.stderr, child.stderr

    refused("MODEL.ekm is missing", status=2)
    refused("there is no option --fast", digits, image, "--fast", status=2)
    refused("--repeat must be a whole number from 1", digits, image, "--repeat", "0", status=2)
    refused("the model has 1 inputs, and 0 files were given", digits)
    refused("'absent.npy' cannot be opened", digits, "absent.npy")
    refused("is no .npy file", digits, digits)
    refused("is not a sound .ekm file", image, image)
    refused("-o was given 2 times, and the model has 1 outputs", digits, image, "-o", "a", "-o", "b")
    for wrong in (np.zeros((1, 1, 8, 7), np.float32), np.zeros((1, 1, 8, 8)), np.zeros((1, 1, 8, 8), np.int32)):
        np.save(image, wrong)
        refused("the model takes 'image' <f4(1, 1, 8, 8), got", digits, image)
    np.save(image, np.asfortranarray(np.zeros((2, 3), np.float32)))
    refused("has a header that is not read here", digits, image)
    np.save(image, np.zeros(3, np.complex64))
    refused("holds '<c8'", digits, image)
    np.save(image, np.zeros((1, 1, 8, 8), np.float32))
    whole = image.read_bytes()
    for cut in (5, 40, len(whole) - 1):
        image.write_bytes(whole[:cut])
        assert ekrun(digits, image).returncode == 1


def test_a_profile_names_the_steps(digits: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "image.npy", np.zeros((1, 1, 8, 8), np.float32))
    child = ekrun(digits, tmp_path / "image.npy", "--profile", "--lazy", "--threads", "1")
    program = ek.Program.load(digits)
    for step, path in zip(program.steps, program.paths(), strict=True):
        assert re.search(rf"%  {step.kind} +{path} +{re.escape(step.name)} \({re.escape(step.op)}\)", child.stdout)


def test_the_bench_runs(digits: Path, tmp_path: Path) -> None:
    bench(["c_api", str(digits), "--runs", "2", "--json", str(tmp_path / "run.json")])
    row = json.loads((tmp_path / "run.json").read_text())
    assert row["bytes"] == digits.stat().st_size
    assert 0 < row["first_ms"] < row["process_ms"]


def test_only_the_abi_is_exported() -> None:
    """In a wheel C++ names are there for the extension module alone, and say so by their version."""
    names = run("nm", "-D", "--defined-only", PACKAGE / "libedgekern.so.1").splitlines()
    kinds = {line.split()[-1] for line in names if not line.endswith("@@EDGEKERN_PRIVATE")}
    functions = {"edgekern_get_api", "ek_get_num_threads", "ek_set_num_threads"}
    assert kinds == {"EDGEKERN_1", "EDGEKERN_PRIVATE"} | {f"{name}@@EDGEKERN_1" for name in functions}
    assert "libedgekern.so.1" in run("readelf", "-d", PACKAGE / "libedgekern.so.1")


def build(*sources: Path, folder: Path) -> Path:
    """A program against the package, found by pkg-config where there is one."""
    pkg_config = shutil.which("pkg-config")
    if pkg_config is None:
        flags = [f"-I{PACKAGE / 'include'}", f"-L{PACKAGE}", "-ledgekern", f"-Wl,-rpath,{PACKAGE}"]
    else:
        environment = os.environ | {"PKG_CONFIG_PATH": str(PACKAGE / "pkgconfig")}
        flags = run(pkg_config, "--cflags", "--libs", "edgekern", env=environment).split()
    target = folder / sources[0].stem
    strict = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-pedantic", "-Werror"]
    run(*os.environ.get("CXX", "c++").split(), *strict, *sources, *flags, "-o", target)
    return target


def test_flipped_bytes_are_refused_and_cycles_leave_nothing(digits: Path, tmp_path: Path) -> None:
    said = run(build(HERE / "check_model.cpp", folder=tmp_path), digits, 1000, 11, env=BARE)
    found = re.fullmatch(r"flipped (\d+) accepted (\d+)\ncycles 1000 grown (-?\d+)\n", said)
    assert found is not None, said
    assert (int(found[1]), int(found[2])) == (-(-digits.stat().st_size // 11), 0)  # tests/core flips all of another
    assert int(found[3]) < 1 << 20  # a leak of one arena a cycle would be six times that


def example(repository: Path, folder: Path) -> Path:
    tools = Path(sys.executable).parent
    cmake, ninja = (shutil.which(name, path=tools) or name for name in ("cmake", "ninja"))
    run(
        *(cmake, "-S", repository / "examples" / "edge_infer", "-B", folder, "-G", "Ninja"),
        *(f"-DCMAKE_MAKE_PROGRAM={ninja}", f"-Dedgekern_DIR={ek.get_cmake_dir()}"),
    )
    run(cmake, "--build", folder)
    return folder / "edge_infer"


def test_the_example_knows_a_goldfish_without_python(
    mobilenet: Path, test_data: Path, repository: Path, tmp_path: Path
) -> None:
    program = example(repository, tmp_path)
    assert "libpython" not in run("ldd", program)
    width, height = 640, 480
    frame = np.random.default_rng(5).integers(0, 256, width * height * 3 // 2, dtype=np.uint8)
    (tmp_path / "frame.nv12").write_bytes(frame.tobytes())
    pictures = [[tmp_path / "frame.nv12", f"{width}x{height}"]]
    if "jpeg" in run("ldd", program):
        pictures.append([test_data / "imagenet" / "images" / "n01443537_goldfish.jpg"])
    session = ek.InferenceSession(mobilenet)
    for words in pictures:
        dump = tmp_path / "dump"
        said = run(program, mobilenet, *words, env=BARE | {"EDGE_INFER_DUMP": str(dump)})
        values = np.frombuffer(dump.read_bytes(), np.float32)
        image, logits = np.split(values, [3 * 224 * 224])
        [expected] = session.run(None, {session.get_inputs()[0].name: image.reshape(1, 3, 224, 224)})
        assert expected.tobytes() == logits.tobytes()
        classes = [int(line.split()[0]) for line in said.splitlines()[1:]]
        assert classes == np.argsort(-logits, kind="stable")[:5].tolist()
        if "goldfish" in str(words[0]):
            assert classes[0] == 2  # behind the background, which is 0
    for wrong in ([tmp_path / "frame.nv12", "640x482"], [tmp_path / "absent.jpg"], [mobilenet]):
        child = call(program, mobilenet, *wrong, env=BARE)
        assert (child.returncode, child.stderr[:11]) == (1, "edge_infer:")
