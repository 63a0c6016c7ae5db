"""Paths chosen by measurement: the same bits, of this very program and machine alone, and only where they gain."""

import dataclasses
import json
import pickle

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, EdgekernError
from edgekern.runtime import ROUNDS, MeasuredPaths, StepPath, measure_paths, path_trials, random_feeds
from edgekern.runtime.measured_paths import identity
from test_cli import _without_toolkit

from float_models import build, f32, helper, ranges_of, samples, small_cnn

node = helper.make_node


def _images(activations):
    model, x = small_cnn(), samples(np.random.default_rng(1), 4)
    return ek.compile(ek.quantize(model, ranges_of(model, x), ek.QuantConfig(activations=activations)))


def _rows(recipe, batch):
    """Rows by many columns, which gemv takes where it is one, and by few."""
    rng = np.random.default_rng(3)
    weights = {"w": f32(rng.normal(size=(300, 600)) / 17), "v": f32(rng.normal(size=(600, 24)) / 24)}
    nodes = [node("MatMul", ["x", "w"], ["a"]), node("Relu", ["a"], ["b"]), node("MatMul", ["b", "v"], ["y"])]
    model, x = build(nodes, weights, ["N", 300]), f32(rng.normal(size=(8, 300)))
    return ek.compile(ek.quantize(model, ranges_of(model, x, method="max"), ek.QuantConfig(recipe=recipe)), batch=batch)


PROGRAMS = {
    "images, uint8": lambda: _images("u8"),
    "images, int8": lambda: _images("s8"),
    "a row": lambda: _rows("w8a8", 1),
    "rows": lambda: _rows("w8a8", 70),
    "a dynamic row": lambda: _rows("w8a8-dynamic", 1),
    "16 bits": lambda: _rows("w8a16", 5),
}


@pytest.fixture(scope="module", params=PROGRAMS)
def program(request):
    return PROGRAMS[request.param]()


@pytest.fixture(scope="module")
def row():
    return PROGRAMS["a row"]()


def _by_rule(session):
    return MeasuredPaths(
        identity(session.program), session.isa, session.num_threads, path_trials.cpu_model(), 0, 0, 0, ()
    )


def _results(session, feeds):
    """What each step has written."""
    return [stored.tobytes() for _, stored in session.trace(feeds)]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_step_gives_the_same_bytes_in_every_way_that_it_can_run(program, isa, threads):
    session = ek.InferenceSession(program, isa=isa, num_threads=threads)
    feeds, ways = random_feeds(program.inputs), path_trials._ways(session)
    expected = _results(session, feeds)
    assert all(len(way) == 1 for way, step in zip(ways, program.steps, strict=True) if not step.macs and threads == 1)
    for number, step in enumerate(ways):
        for path, alone in step[1:]:
            chosen = StepPath(number, program.steps[number].name, path, alone, 0.0, 0.0)
            paths = dataclasses.replace(_by_rule(session), steps=(chosen,))
            forced = ek.InferenceSession(program, isa=isa, num_threads=threads, paths=paths)
            assert path in ("", "spread") or forced.paths[number] == path
            assert _results(forced, feeds) == expected
            others = [name for at, name in enumerate(forced.paths) if at != number]
            assert others == [name for at, name in enumerate(session.paths) if at != number]


def test_a_row_by_many_columns_can_be_tiles(row):
    session = ek.InferenceSession(row, num_threads=1)
    [number] = [number for number, path in enumerate(session.paths) if path == "gemv"]
    assert path_trials._ways(session)[number][0] == ("", False)
    assert ("tile", False) in path_trials._ways(session)[number]


def _measured(row, **changes):
    session = ek.InferenceSession(row, num_threads=1)
    number = session.paths.index("gemv")
    chosen = StepPath(number, row.steps[number].name, "tile", False, 2.0, 1.5)
    return dataclasses.replace(_by_rule(session), tried=1, rule_us=3.0, us=2.5, steps=(chosen,), **changes)


def test_a_file_says_what_was_saved_and_a_session_takes_it(row, tmp_path):
    paths = _measured(row)
    paths.save(tmp_path / "paths.json")
    assert MeasuredPaths.load(tmp_path / "paths.json") == paths
    for given in (paths, tmp_path / "paths.json", str(tmp_path / "paths.json")):
        session = ek.InferenceSession(row, num_threads=1, paths=given)
        assert session.paths[paths.steps[0].step] == "tile"
        feeds = random_feeds(row.inputs)
        assert np.array_equal(session.run(None, feeds)[0], ek.InferenceSession(row).run(None, feeds)[0])
    assert pickle.loads(pickle.dumps(session)).paths == ek.InferenceSession(row, num_threads=1).paths
    assert "1 of 1 steps with a choice run otherwise than by rule; a run takes 2.5 us instead of 3.0" in str(paths)
    assert f"{paths.steps[0].name} (tile): 1.5 us instead of 2.0" in str(paths)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"program": "00"}, r"measured with the program '00', and this session has '[0-9a-f]{64}'"),
        ({"isa": "abacus"}, r"measured with the instruction set 'abacus', and this session has '\w+'"),
        ({"num_threads": 7}, r"measured with the number of threads 7, and this session has 1"),
        ({"cpu": "Z80"}, r"measured with the CPU 'Z80', and this session has '.+'"),
    ],
)
def test_paths_of_another_program_or_machine_are_refused_by_name(row, changes, message):
    with pytest.raises(ArgumentValueError, match=message):
        ek.InferenceSession(row, num_threads=1, paths=dataclasses.replace(_measured(row), **changes))


def test_paths_of_one_program_are_none_of_another(row):
    other = PROGRAMS["rows"]()
    with pytest.raises(ArgumentValueError, match="measured with the program"):
        ek.InferenceSession(other, num_threads=1, paths=_measured(row))
    assert identity(row) == identity(ek.Program.load(row.container.data.tobytes()))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "shallow"}, "cannot take the path 'shallow' here; it can take gemv, "),
        ({"path": "abacus"}, "cannot take the path 'abacus' here"),
        ({"step": 99}, "name a step 99 "),
        ({"step": -1}, "name a step -1 "),
        ({"name": "another"}, "name a step . 'another', which the program has not"),
    ],
)
def test_a_step_is_never_given_what_it_cannot_take(row, changes, message):
    paths = _measured(row)
    step = dataclasses.replace(paths.steps[0], **changes)
    with pytest.raises(ArgumentValueError, match=message):
        ek.InferenceSession(row, num_threads=1, paths=dataclasses.replace(paths, steps=(step,)))


def test_a_step_without_a_choice_takes_none(row):
    paths = _measured(row)
    step = dataclasses.replace(paths.steps[0], step=0, name=row.steps[0].name)
    with pytest.raises(ArgumentValueError, match="it has none to choose"):
        ek.InferenceSession(row, num_threads=1, paths=dataclasses.replace(paths, steps=(step,)))


@pytest.mark.parametrize("given", [3, b"paths.json", ["paths.json"], True])
def test_what_is_no_path_is_refused(row, given):
    with pytest.raises(ArgumentTypeError, match="paths must be a path or MeasuredPaths"):
        ek.InferenceSession(row, paths=given)


DAMAGE = {
    "a field less": lambda content: content.pop("cpu"),
    "a field more": lambda content: content.update(more=1),
    "another version": lambda content: content.update(version=2),
    "another format": lambda content: content.update(format="edgekern.ranges"),
    "a number for a name": lambda content: content.update(isa=3),
    "a name for a number": lambda content: content.update(num_threads="1"),
    "true for a number": lambda content: content.update(num_threads=True),
    "no list": lambda content: content.update(steps=3),
    "a list of numbers": lambda content: content.update(steps=[3]),
    "a step without its number": lambda content: content["steps"][0].pop("step"),
    "a step whose number is none": lambda content: content["steps"][0].update(step=1.5),
    "a number for a flag": lambda content: content["steps"][0].update(alone=1),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_refused(row, tmp_path, damage):
    path = tmp_path / "paths.json"
    _measured(row).save(path)
    content = json.loads(path.read_text())
    damage(content)
    path.write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match=r"MeasuredPaths\.load: "):
        MeasuredPaths.load(path)


def test_no_byte_makes_another_error_than_ours(row, tmp_path):
    path = tmp_path / "paths.json"
    _measured(row).save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(5)
    for at in range(0, len(whole), 5):
        for text in (whole[:at], whole[:at] + bytes([rng.integers(256)]) + whole[at + 1 :]):
            path.write_bytes(text)
            try:
                ek.InferenceSession(row, num_threads=1, paths=path)
            except EdgekernError:
                continue
            assert len(text) == len(whole)  # a digit of a time, which nothing follows from


def test_another_kind_of_file_is_named(row, tmp_path):
    row.save(tmp_path / "model.ekm")
    with pytest.raises(ArtifactError, match="is not a file of measured paths; it is a compiled program"):
        ek.InferenceSession(row, paths=tmp_path / "model.ekm")
    _measured(row).save(tmp_path / "paths.json")
    with pytest.raises(EdgekernError, match="it is a file of measured paths"):
        ek.Program.load(tmp_path / "paths.json")


WAYS = [("", False), ("tile", False), ("", True)]


@pytest.mark.parametrize(
    ("rounds", "chosen"),
    [
        ([[2.0] * ROUNDS, [1.0] * ROUNDS, [1.5] * ROUNDS], ("tile", False)),
        ([[2.0] * ROUNDS, [1.5] * ROUNDS, [1.0] * ROUNDS], ("", True)),
        ([[2.0] * ROUNDS, [1.99] * ROUNDS, [2.5] * ROUNDS], None),  # too little
        ([[2.0] * ROUNDS, [1.0] * (ROUNDS - 1) + [9.0], [3.0] * ROUNDS], ("tile", False)),  # one loud moment
        ([[2.0] * ROUNDS, [1.0] * (ROUNDS - 2) + [9.0] * 2, [3.0] * ROUNDS], None),  # two are none
        ([[0.0] * ROUNDS] * 3, None),
    ],
)
def test_another_way_is_taken_where_it_gains_in_nearly_all_rounds(row, rounds, chosen):
    found = path_trials._faster(ek.InferenceSession(row), 0, WAYS, np.array(rounds))
    assert (None if found is None else (found.path, found.alone)) == chosen
    if found is not None:
        assert (found.rule_us, found.us) == (2.0, 1.0)


@pytest.mark.parametrize(("whole", "kept"), [([2.0, 1.0], 1), ([2.0, 1.99], 0), ([2.0, 2.0], 0), ([2.0, 3.0], 0)])
def test_steps_are_kept_where_the_whole_program_gains(row, monkeypatch, whole, kept):
    session = ek.InferenceSession(row, num_threads=1)
    number = session.paths.index("gemv")

    def timed(sessions, *_):
        times = np.ones((len(sessions), ROUNDS, len(row.steps)))
        times[1:, :, number] = 0.5
        return times

    monkeypatch.setattr(path_trials, "_timed", timed)
    monkeypatch.setattr(path_trials, "_whole", lambda *_: np.array(whole)[:, None] * np.ones((2, ROUNDS)))
    found = measure_paths(session, random_feeds(row.inputs), runs=1)
    assert [step.step for step in found.steps] == [number] * kept
    assert [found.rule_us, found.us] == whole
    assert ("nothing is gained" in str(found)) == (kept == 0)


def test_what_was_measured_runs_here_and_each_way_as_often(program):
    session, ticks = ek.InferenceSession(program, num_threads=2), []
    feeds = random_feeds(program.inputs)
    found = measure_paths(session, feeds, runs=ROUNDS, advance=lambda: ticks.append(1))
    assert len(ticks) == (2 * ROUNDS if found.us else ROUNDS)
    assert (found.program, found.isa, found.num_threads) == (identity(program), session.isa, 2)
    chosen = ek.InferenceSession(program, num_threads=2, paths=found)
    assert _results(chosen, feeds) == _results(session, feeds)


def test_of_several_sizes_the_smallest_runs_as_was_measured():
    several = _rows("w8a8", (1, 2))
    paths, feeds = _measured(several), random_feeds(several.inputs)
    by_rule = ek.InferenceSession(several, num_threads=1)
    session = ek.InferenceSession(several, num_threads=1, paths=paths)
    number = paths.steps[0].step
    assert (session.paths[number], by_rule.paths[number]) == ("tile", "gemv")
    others = [[runner.paths for runner in one._arenas[0].runners[1:]] for one in (session, by_rule)]
    assert others[0] == others[1]
    assert np.array_equal(session.run(None, feeds)[0], by_rule.run(None, feeds)[0])
    assert measure_paths(session, feeds, runs=1).tried == sum(len(way) > 1 for way in path_trials._ways(by_rule))


def test_all_arenas_run_as_was_measured(row):
    paths, feeds = _measured(row), random_feeds(row.inputs)
    session = ek.InferenceSession(row, num_threads=1, paths=paths, arenas=2)
    assert [arena.runners[0].paths[paths.steps[0].step] for arena in session._arenas] == ["tile"] * 2
    assert np.array_equal(session.run(None, feeds)[0], ek.InferenceSession(row).run(None, feeds)[0])


def test_host_steps_stay_where_they_are():
    weights = {"w": f32(np.eye(64)), "k": np.array([64])}
    nodes = [
        node("MatMul", ["x", "w"], ["a"]),
        node("TopK", ["a", "k"], ["s", "at"], name="sort"),
        node("MatMul", ["s", "w"], ["y"]),
    ]
    with pytest.warns(ek.errors.EdgekernWarning, match="TopK"):
        hosted = ek.compile(build(nodes, weights, [8, 64]))
    session = ek.InferenceSession(hosted, num_threads=2)
    assert measure_paths(session, random_feeds(hosted.inputs), runs=1).tried == len(hosted.steps)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [(("model.ekm", {}), ArgumentTypeError), ((None, {}, 0), ArgumentValueError), ((None, {}, 1), ArgumentValueError)],
)
def test_wrong_arguments_are_refused(row, arguments, error):
    session, feeds, *runs = arguments
    session = ek.InferenceSession(row, num_threads=2) if session is None else session
    with pytest.raises(error):
        measure_paths(session, feeds, runs=runs[0] if runs else 1)


def test_the_command_saves_and_takes_a_file(row, tmp_path, capsys):
    row.save(tmp_path / "model.ekm")
    model, saved, fixed = str(tmp_path / "model.ekm"), str(tmp_path / "paths.json"), ["--runs", "9", "--threads", "2"]
    assert cli.run(["profile", model, "--save", saved, *fixed]) == 0
    assert f"{saved}: " in capsys.readouterr().out
    assert MeasuredPaths.load(saved).num_threads == 2
    assert cli.run(["profile", model, "--paths", saved, *fixed]) == 0
    assert cli.run(["profile", model, "--paths", saved, "--runs", "9", "--threads", "1"]) == 2
    assert "number of threads 2, and this session has 1" in capsys.readouterr().err
    child = _without_toolkit("profile", model, "--save", saved, *fixed)
    assert child.returncode == 0, child.stderr
    assert cli.run(["profile", model, "--save", model, *fixed]) == 2


@pytest.mark.parametrize("path", ["\ud800", "tile\udfff"])
def test_a_path_that_no_text_can_be_is_refused(row, tmp_path, path):
    session = ek.InferenceSession(row, num_threads=1)
    chosen = StepPath(0, row.steps[0].name, path, False, 1.0, 1.0)
    dataclasses.replace(_by_rule(session), rule_us=1.0, us=1.0, steps=(chosen,)).save(tmp_path / "paths.json")
    with pytest.raises(ArgumentValueError, match=r"paths give step 0 the path .* which is none"):
        ek.InferenceSession(row, num_threads=1, paths=tmp_path / "paths.json")
