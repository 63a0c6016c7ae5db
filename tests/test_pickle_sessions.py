"""Programs, sessions, calibrators and caches in pickles and copies, and on their way to workers."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import onnx
import pytest
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern import llm
from edgekern.calibration.observers.means import ChannelMeans
from edgekern.errors import ArgumentTypeError, ArtifactError, CalibrationError, EdgekernError

from graphs import Graph, feeds_of
from llm_files import SMALL, random_tensors, write_llama2c


def qdq_model():
    g = Graph()
    return g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1)))


def float_model():
    g = Graph()
    return g.model(g.op("Gemm", g.input("x", (4, 8)), g.const(g.rng.normal(size=(8, 6)), np.float32)))


@pytest.fixture(scope="module")
def model():
    return qdq_model()


@pytest.fixture(scope="module")
def program(model):
    return ek.compile(model, allow_host=False)


def both(value):
    return pickle.loads(pickle.dumps(value)), copy.deepcopy(value)


def test_a_program_travels_whole(program, model, tmp_path):
    program.save(tmp_path / "model.ekm")
    for given in (program, ek.Program.load(tmp_path / "model.ekm")):
        again = pickle.loads(pickle.dumps(given))
        assert (again, hash(again), again.summary()) == (program, hash(program), program.summary())
        feeds = feeds_of(model)
        assert_array_equal(
            ek.InferenceSession(again).run(None, feeds)[0], ek.InferenceSession(program).run(None, feeds)[0]
        )
    assert copy.copy(program) is copy.deepcopy(program) is program


def test_a_program_travels_out_of_band_and_is_checked_where_it_arrives(program):
    buffers = []
    head = pickle.dumps(program, 5, buffer_callback=buffers.append)
    assert len(head) < 1000
    assert sum(buffer.raw().nbytes for buffer in buffers) == program.nbytes
    assert pickle.loads(head, buffers=buffers) == program
    spoiled = bytearray(buffers[0].raw())
    spoiled[-1] ^= 1
    with pytest.raises(ArtifactError, match="does not match its sha256"):
        pickle.loads(head, buffers=[spoiled])


def test_a_session_is_opened_anew_with_its_options(program, model):
    feeds = feeds_of(model)
    session = ek.InferenceSession(program, num_threads=2, isa="scalar")
    for again in both(session):
        assert (again.num_threads, again.isa) == (2, "scalar")
        assert again.program == program
        assert_array_equal(again.run(None, feeds)[0], session.run(None, feeds)[0])
    assert ek.InferenceSession(program, isa=None).isa == pickle.loads(pickle.dumps(ek.InferenceSession(program))).isa


def test_a_calibrator_keeps_what_it_counted(tmp_path):
    model, rng = float_model(), np.random.default_rng(2)
    onnx.save(model, tmp_path / "model.onnx")
    batches = [{"x": rng.normal(size=(4, 8)).astype(np.float32)} for _ in range(3)]
    for source in (model, model.SerializeToString(), tmp_path / "model.onnx"):
        calibrator = ek.Calibrator(source, tensors=["x"], progress=False).collect(batches[0])
        for again in both(calibrator):
            assert list(again.histograms) == ["x"]
            again.collect(batches[1])
            want = ek.Calibrator(model, tensors=["x"], progress=False).collect_many(batches[:2])
            assert again.compute_ranges() == want.compute_ranges()
        assert calibrator.num_batches == 1  # the copies are others


def test_a_calibrator_whose_model_has_changed_says_so(tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(float_model(), path)
    calibrator = ek.Calibrator(path, progress=False)
    g = Graph()
    onnx.save(g.model(g.op("Relu", g.input("x", (4, 8)))), path)
    with pytest.raises(CalibrationError, match=r"Calibrator: the model has changed since it was given.*state_dict"):
        pickle.dumps(calibrator)


@pytest.mark.filterwarnings("ignore:compare. program does not say which float model")
def test_values_of_the_toolkit_are_equal_after_the_way():
    rng = np.random.default_rng(4)
    histogram = ek.Histogram().update(rng.normal(size=1000).astype(np.float32))
    calibrator = ek.Calibrator(float_model(), progress=False)
    ranges = calibrator.collect({"x": rng.normal(size=(4, 8)).astype(np.float32)}).compute_ranges()
    config = ek.QuantConfig()
    report = ek.compare(qdq_model(), ek.compile(qdq_model(), allow_host=False), feeds_of(qdq_model()))
    formats = ek.KVFormat("int4", 32), ek.KVFormat()
    for value in (histogram, ranges, config, report, *formats, ek.tile_plan(300, 200, 100), SMALL):
        for again in both(value):
            assert again == value
    means = ChannelMeans().update(rng.normal(size=(2, 3, 4)))
    assert both(means)[0].values() == means.values()


def test_a_cache_keeps_its_tokens_and_its_formats():
    rng = np.random.default_rng(5)
    cache = ek.RingKVCache(
        num_layers=2, num_kv_heads=2, num_heads=4, head_dim=64, window=8, max_chunk=4, kv="k8v4", num_sequences=2
    )
    tokens = rng.normal(size=(2, 11, 2, 64)).astype(np.float32)
    cache.append(tokens, tokens)
    cache.append(tokens[:, :3], tokens[:, :3], sequence=1)
    q = rng.normal(size=(2, 4, 64)).astype(np.float32)
    for again in both(cache):
        assert repr(again) == repr(cache)
        for sequence in (0, 1):
            assert_array_equal(again.positions(sequence), cache.positions(sequence))
            assert_array_equal(again.attend(1, q, sequence=sequence), cache.attend(1, q, sequence=sequence))
    cache.begin(1)
    with pytest.raises(EdgekernError, match=r"RingKVCache\.save"):
        pickle.dumps(cache)


def test_a_decoder_says_what_to_do_instead(tmp_path):
    decoder = llm.load(write_llama2c(tmp_path / "small.bin", SMALL, random_tensors(SMALL)))
    for call in (pickle.dumps, copy.deepcopy, copy.copy):
        with pytest.raises(ArgumentTypeError, match=r"Decoder: a decoder cannot be pickled or copied; call llm\.load"):
            call(decoder)


SPAWN = """
import multiprocessing
import numpy as np
import edgekern as ek

def count(calibrator, batch):
    return calibrator.collect({"x": batch})

def run(session, batch):
    return session.run(None, {"x": batch})[0]

if __name__ == "__main__":
    rng = np.random.default_rng(3)
    batches = [rng.normal(size=(4, 8)).astype(np.float32) for _ in range(2)]
    calibrator, session = ek.Calibrator("float.onnx", progress=False), ek.InferenceSession("model.ekm", num_threads=1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        counted = pool.starmap(count, [(calibrator, batch) for batch in batches])
        for got, batch in zip(pool.starmap(run, [(session, batch) for batch in batches]), batches, strict=True):
            assert np.array_equal(got, run(session, batch))
    merged = calibrator.merge(counted[0]).merge(counted[1])
    want = ek.Calibrator("float.onnx", progress=False).collect_many({"x": batch} for batch in batches)
    assert merged.compute_ranges() == want.compute_ranges()
"""


def test_calibrators_and_sessions_go_to_spawned_workers(program, tmp_path):
    program.save(tmp_path / "model.ekm")
    onnx.save(float_model(), tmp_path / "float.onnx")
    script = tmp_path / "script.py"
    script.write_text(SPAWN)
    child = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert child.returncode == 0, child.stdout + child.stderr
