"""Calibration on many workers, and calibration that goes on where it stopped: the bits of one uninterrupted run."""

import multiprocessing
import os
import signal
import tempfile
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest

import edgekern as ek
from edgekern.calibration import checkpoint
from edgekern.errors import ArgumentTypeError, ArgumentValueError, CalibrationError

from calibrator_models import FLOAT, helper, onnx, small_cnn

MODEL = small_cnn().SerializeToString()
FEEDS = [
    {"x": np.random.default_rng(at).normal(size=(1 + at % 3, 3, 6, 6 + at % 2)).astype(np.float32)} for at in range(21)
]


def calibrator():
    return ek.Calibrator(MODEL, progress=False)


def written(made, tmp_path):
    """The ranges of what is counted, and of the samples that are kept."""
    path = tmp_path / "ranges.json"
    files = []
    for method in ("entropy", "auto"):
        made.compute_ranges(method=method).save(path)
        files.append(path.read_bytes())
    return files


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    return written(calibrator().collect_many(FEEDS), tmp_path_factory.mktemp("expected"))


@pytest.fixture(scope="module")
def processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


class FakeRay:
    """The part of Ray that is used, on threads."""

    def __init__(self, workers=2):
        self.pool = ThreadPoolExecutor(workers)
        self.put_values, self.cancelled = [], []

    def cluster_resources(self):
        return {"CPU": 2.0}

    def put(self, value):
        self.put_values.append(value)
        future = Future()
        future.set_result(value)
        return future

    def remote(self, function):
        def run(*arguments):
            return self.pool.submit(
                function, *(given.result() if isinstance(given, Future) else given for given in arguments)
            )

        return type("RemoteFunction", (), {"remote": staticmethod(run)})

    def get(self, reference):
        return reference.result()

    def cancel(self, reference):
        self.cancelled.append(reference)


def test_processes_count_the_same_bits(tmp_path, processes, expected):
    assert written(calibrator().collect_many(FEEDS, executor=processes), tmp_path) == expected


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_threads_count_the_same_bits(tmp_path, workers, expected):
    with ThreadPoolExecutor(workers) as pool:
        made = calibrator().collect_many(iter(FEEDS), executor=pool)
    assert made.num_batches == len(FEEDS)
    assert written(made, tmp_path) == expected


def test_ray_is_asked_for_the_same_bits(tmp_path, expected):
    ray = FakeRay()
    assert written(calibrator().collect_many(FEEDS, executor=ray), tmp_path) == expected
    assert len(ray.put_values) == 1  # the model travels once


def test_a_dask_cluster_counts_the_same_bits(tmp_path, expected):
    distributed = pytest.importorskip("distributed", reason="needs edgekern[dask]")
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        assert written(calibrator().collect_many(FEEDS, executor=client), tmp_path) == expected


def test_workers_read_samples_themselves(tmp_path, processes):
    data = np.random.default_rng(1).normal(size=(37, 3, 6, 6)).astype(np.float32)
    (tmp_path / "set.bin").write_bytes(data.tobytes())
    samples = ek.samples(tmp_path / "set.bin", MODEL, shapes={"h": 6, "w": 6}, batch=4)
    here = written(calibrator().collect_many(samples), tmp_path)
    assert written(calibrator().collect_many(samples, executor=processes), tmp_path) == here


@pytest.mark.parametrize("wrong", ["shape", "name"])
def test_a_feed_that_fails_on_a_worker_is_named(wrong):
    bad = {"x": np.zeros((1, 4, 6, 6), np.float32)} if wrong == "shape" else {"z": np.zeros(1, np.float32)}
    said = r"has shape \(1, 4, 6, 6\)" if wrong == "shape" else "feeds has 'z'"
    with (
        ThreadPoolExecutor(2) as pool,
        pytest.raises(CalibrationError, match=rf"collect_many: feed 13, on a worker: .*{said}"),
    ):
        calibrator().collect_many([*FEEDS[:13], bad, *FEEDS[13:]], executor=pool)


def test_an_interrupt_gives_up_what_has_not_begun():
    ray = FakeRay(1)

    def get(reference):
        raise KeyboardInterrupt

    ray.get = get
    with pytest.raises(KeyboardInterrupt):
        calibrator().collect_many(FEEDS * 20, executor=ray)
    assert ray.cancelled


class Killer:
    """A list of feeds that ends the process which reads it."""

    def __init__(self, at):
        self.at = at

    def __reduce__(self):
        return _end, (self.at,)

    def values(self):
        return []


def _end(at):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_worker_that_dies_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(CalibrationError, match="a worker process has ended before its work"):
        calibrator().collect_many([*FEEDS[:9], Killer(9)], workers=2)
    assert not list(tmp_path.iterdir())


def test_executors_of_no_kind_are_refused():
    with pytest.raises(ArgumentTypeError, match="executor must be a pool of concurrent"):
        calibrator().collect_many(FEEDS, executor="two")
    with pytest.raises(ArgumentValueError, match="workers must be at least 1, got 0"):
        calibrator().collect_many(FEEDS, workers=0)


def test_an_emptied_calibrator_has_seen_nothing(tmp_path):
    """Not even the samples that are kept, and the one that it is of keeps its own."""
    full = calibrator().collect_many(FEEDS[:3])
    before = written(full, tmp_path)
    fresh = full.emptied()
    assert (fresh.num_batches, fresh.kept_feeds) == (0, [])
    fresh.collect_many(FEEDS[3:6])
    assert written(fresh, tmp_path) == written(calibrator().collect_many(FEEDS[3:6]), tmp_path)
    assert written(full, tmp_path) == before


def test_what_depends_on_the_order_of_batches_is_not_sent_to_workers():
    made = ek.Calibrator(MODEL, observers=["moving_average"], progress=False)
    with (
        ThreadPoolExecutor(2) as pool,
        pytest.raises(CalibrationError, match=r"collect_many: 'moving_average' depends on the order .*, and workers"),
    ):
        made.collect_many(FEEDS, executor=pool)
    assert made.num_batches == 0
    assert made.collect_many(FEEDS, workers=1).num_batches == len(FEEDS)


# Going on


def test_a_saved_calibration_goes_on(tmp_path, expected):
    path = tmp_path / "state.npz"
    calibrator().collect_many(FEEDS[:8]).save(path)
    resumed = ek.Calibrator.resume(MODEL, path, progress=False)
    assert resumed.num_batches == 8
    assert written(resumed.collect_many(FEEDS[8:]), tmp_path) == expected


def test_tensors_and_observers_come_from_the_file(tmp_path):
    path = tmp_path / "state.npz"
    made = ek.Calibrator(MODEL, tensors=["relu"], observers=[], progress=False).collect_many(FEEDS)
    made.save(path)
    resumed = ek.Calibrator.resume(MODEL, path, progress=False)
    assert {name: list(kinds) for name, kinds in resumed.observers.items()} == {"relu": ["histogram"]}
    assert written(resumed, tmp_path) == written(made, tmp_path)


@pytest.mark.parametrize("name", ["x", "array"])
@pytest.mark.parametrize("dtype", ["FLOAT", "FLOAT16", "BFLOAT16"])
def test_kept_samples_come_back_from_the_file(tmp_path, name, dtype):
    """With an input of any name and type; NumPy's files do not know bfloat16."""
    element = onnx.TensorProto.DataType.Value(dtype)
    given = helper.tensor_dtype_to_np_dtype(element)
    x = helper.make_tensor_value_info(name, element, ["n", 3])
    y = helper.make_tensor_value_info("y", FLOAT, ["n", 3])
    nodes = [
        helper.make_node("Cast", [name], ["cast"], to=FLOAT),
        helper.make_node("Relu", ["cast"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "test", [x], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = np.random.default_rng(5).normal(size=(20, 3)).astype(given)
    made = ek.Calibrator(model, progress=False).collect_many([{name: rows[:11]}, {name: rows[11:]}])
    made.save(tmp_path / "state.npz")
    resumed = ek.Calibrator.resume(model, tmp_path / "state.npz", progress=False)
    assert len(resumed.kept_feeds) == len(rows)
    for mine, back in zip(made.kept_feeds, resumed.kept_feeds, strict=True):
        assert back[name].dtype == given
        assert mine[name].tobytes() == back[name].tobytes()
    assert resumed.compute_ranges("auto") == made.compute_ranges("auto")


def test_files_of_others_are_refused_by_name(tmp_path):
    path = tmp_path / "state.npz"
    calibrator().collect_many(FEEDS[:2]).save(path)
    with pytest.raises(CalibrationError, match=r"state\.npz' is of another model"):
        ek.Calibrator.resume(small_cnn(13), path)
    for content in (b"", b"text", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(CalibrationError, match=r"state\.npz' is n"):
            ek.Calibrator.resume(MODEL, path)
    np.savez_compressed(path, tree=np.zeros(1 << 20, np.uint8))
    with pytest.raises(CalibrationError, match="it is compressed, which no such file is"):
        ek.Calibrator.resume(MODEL, path)
    np.savez(path, tree=np.frombuffer(b'{"tensors": 3}', np.uint8))
    with pytest.raises(CalibrationError, match=r"state\.npz' is no saved calibration"):
        ek.Calibrator.resume(MODEL, path)


class Stops:
    """Feeds that fail after some."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        yield from FEEDS[: self.count]
        raise RuntimeError("the disk went away")


@pytest.mark.parametrize("threads", [None, 2])
@pytest.mark.parametrize("stop", [1, 11, 20])
def test_a_run_that_stopped_goes_on_from_its_checkpoint(tmp_path, expected, stop, threads, monkeypatch):
    path = tmp_path / "state.npz"
    monkeypatch.setattr(checkpoint, "SAVE_SECONDS", -1.0)
    with pytest.raises(RuntimeError, match="the disk went away"):
        calibrator().collect_many(Stops(stop), checkpoint=path)
    runs = []
    monkeypatch.setattr(ek.Calibrator, "_run", _counting(ek.Calibrator._run, runs))
    with ThreadPoolExecutor(threads or 1) as pool:
        made = calibrator().collect_many(FEEDS, checkpoint=path, executor=pool if threads else None)
    assert len(runs) == len(FEEDS) - stop
    assert written(made, tmp_path) == expected
    again = calibrator().collect_many(FEEDS, checkpoint=path)
    assert len(runs) == len(FEEDS) - stop  # nothing was left to run
    assert written(again, tmp_path) == expected


def _counting(run, runs):
    def counted(self, arrays):
        runs.append(1)
        return run(self, arrays)

    return counted


@pytest.mark.parametrize("threads", [None, 2])
def test_samples_that_failed_go_on_when_they_are_mended(tmp_path, threads):
    data = np.random.default_rng(1).normal(size=(23, 3, 6, 6)).astype(np.float32)
    (tmp_path / "data").mkdir()
    for at, row in enumerate(data):
        (tmp_path / "data" / f"{at:02d}.bin").write_bytes(row.tobytes()[: 100 if at == 17 else None])
    samples = ek.samples(tmp_path / "data", MODEL, shapes={"h": 6, "w": 6}, batch=2)
    path = tmp_path / "state.npz"
    with ThreadPoolExecutor(threads or 1) as pool:
        executor = pool if threads else None
        with pytest.raises(ValueError, match=r"17\.bin has 100 bytes"):
            calibrator().collect_many(samples, checkpoint=path, executor=executor)
        assert 0 < ek.Calibrator.resume(MODEL, path).num_batches <= 8
        (tmp_path / "data" / "17.bin").write_bytes(data[17].tobytes())
        made = calibrator().collect_many(samples, checkpoint=path, executor=executor)
    assert made.num_batches == len(samples)
    assert written(made, tmp_path) == written(calibrator().collect_many(samples), tmp_path)


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    path = tmp_path / "state.npz"
    calibrator().collect_many(FEEDS[:6], checkpoint=path)
    before = path.read_bytes()
    for data in ([*FEEDS[1:], FEEDS[0]], FEEDS[:3], [*FEEDS[:5], {"x": FEEDS[5]["x"] + 1e-6}]):
        with pytest.raises(CalibrationError, match=r"state\.npz' is of other data"):
            calibrator().collect_many(data, checkpoint=path)
        assert path.read_bytes() == before
    with pytest.raises(CalibrationError, match=r"state\.npz'.*another model"):
        ek.Calibrator(small_cnn(13), progress=False).collect_many(FEEDS, checkpoint=path)
    with pytest.raises(CalibrationError, match="this calibrator has counted already"):
        calibrator().collect_many(FEEDS[:1]).collect_many(FEEDS, checkpoint=path)
    calibrator().collect_many(FEEDS[:2]).save(path)
    with pytest.raises(CalibrationError, match=r"says nothing of its data; go on with Calibrator\.resume"):
        calibrator().collect_many(FEEDS, checkpoint=path)
