"""Gates of a program: each figure against counting by hand, what is asked for and nothing else, and what is refused."""

import json

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning

from gated_models import COUNT, feeds, gated, helper, labels, net, onnx, outputs, sqnr_db

FIELDS = list(ek.analysis.Limits.__dataclass_fields__)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return gated(tmp_path_factory.mktemp("gates"))


def gate(report, name):
    [row] = [row for row in report.rows if row.name == name]
    return row


def swapped(seed=0):
    """A model of six classes that errs on some samples, beside one that does not: scores as they come."""
    rng = np.random.default_rng(seed)
    right, wrong = np.eye(6, dtype=np.float32), np.eye(6, dtype=np.float32)
    wrong[[0, 1]] = wrong[[1, 0]]  # classes 0 and 1 are taken for each other
    models = [net([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}) for weights in (right, wrong)]
    truth = rng.integers(0, 6, 50)
    scores = np.eye(6, dtype=np.float32)[truth] + rng.uniform(0, 0.3, (50, 6)).astype(np.float32)
    return models, truth, scores


def test_figures_are_those_that_are_counted_by_hand(digits):
    program = digits / "m.ekm"
    report = ek.validate(
        program,
        feeds(),
        labels(),
        float_model=quickstart.MODEL,
        max_drop=0.05,
        min_sqnr_db=20,
        min_agreement=0.9,
        max_bytes="1M",
        max_memory_bytes="1G",
        max_latency_ms=60000,
        runs=3,
        progress=False,
    )
    ours, real = outputs(program)
    assert report.passed
    assert [row.name for row in report.rows] == FIELDS
    assert gate(report, "max_drop").measured == np.mean(real.argmax(1) == labels()) - np.mean(
        ours.argmax(1) == labels()
    )
    assert gate(report, "min_sqnr_db").measured == pytest.approx(sqnr_db(ours, real), abs=0.01)
    assert gate(report, "min_agreement").measured == np.mean(ours.argmax(1) == real.argmax(1))
    assert gate(report, "max_bytes").measured == program.stat().st_size
    session = ek.InferenceSession(program)
    assert gate(report, "max_memory_bytes").measured >= session.arena_bytes + program.stat().st_size
    [opened] = ek.validate(session, max_memory_bytes="1G").rows  # whose opening nobody saw
    assert opened.measured == session.arena_bytes + program.stat().st_size
    assert "3 runs on this machine" in gate(report, "max_latency_ms").source
    assert session.isa in gate(report, "max_latency_ms").source


@pytest.mark.parametrize("top", [1, 2])
def test_what_is_lost_of_right_answers_is_counted(top):
    (float_model, wrong), truth, scores = swapped()
    report = ek.validate(
        ek.compile(wrong),
        [{"x": scores[at : at + 1]} for at in range(50)],
        truth,
        float_model=float_model,
        max_drop=0.0,
        min_agreement=1.0,
        top=top,
        progress=False,
    )

    def right(given):
        return np.mean([label in row.argsort()[::-1][:top] for row, label in zip(given, truth, strict=True)])

    lost = right(scores) - right(scores[:, [1, 0, 2, 3, 4, 5]])
    assert gate(report, "max_drop").measured == pytest.approx(lost)
    assert lost > 0
    assert report.failures == ("max_drop", "min_agreement")
    assert not report.passed
    assert f"top-{top} lost" in str(report)
    assert "2 of 2 gates FAILED: max_drop, min_agreement" in str(report)


@pytest.mark.parametrize("name", FIELDS)
def test_only_what_is_asked_for_is_measured_and_each_gate_can_fail(digits, name):
    easy = {
        "max_drop": 0.99,
        "min_sqnr_db": -300,
        "min_agreement": 0,
        "max_bytes": 1 << 40,
        "max_memory_bytes": 1 << 40,
    }
    hard = {"max_drop": -1, "min_sqnr_db": 300, "min_agreement": 1, "max_bytes": 1, "max_memory_bytes": 1}
    given = {"float_model": quickstart.MODEL, "runs": 1, "progress": False}
    for limit, well in ((easy.get(name, 1e9), True), (hard.get(name, 1e-9), False)):
        if name == "min_agreement" and not well:
            continue  # the digits agree wholly; the test above has it fail
        report = ek.validate(digits / "m.ekm", feeds(), labels(), **given, **{name: limit})
        assert [(row.name, row.passed) for row in report.rows] == [(name, well)]
        told = json.loads(report.to_json())
        assert told["passed"] is well
        assert told["failures"] == ([] if well else [name])


def test_programs_of_codes_are_compared_by_what_codes_stand_for(digits):
    given = {"float_model": quickstart.MODEL, "min_sqnr_db": 20, "max_drop": 0.05, "progress": False}
    report = ek.validate(digits / "bytes.ekm", feeds(), labels(), **given, max_latency_ms=1e9, runs=1)
    session = ek.InferenceSession(digits / "bytes.ekm")
    [image], [logits] = session.get_inputs(), session.get_outputs()
    codes = [
        session.run(None, {"image": ek.quantize_linear(feed["image"], image.scale, image.zero_point)})[0]
        for feed in feeds()
    ]
    ours = ek.dequantize_linear(np.concatenate(codes), logits.scale, logits.zero_point)
    assert gate(report, "min_sqnr_db").measured == pytest.approx(sqnr_db(ours, outputs(digits / "m.ekm")[1]), abs=0.01)


def test_feeds_of_several_rows_are_cut_for_the_program(digits):
    _, held_out = quickstart.load_digits()
    given = {"float_model": quickstart.MODEL, "min_sqnr_db": 20, "min_agreement": 0.9, "progress": False}
    whole = ek.validate(digits / "m.ekm", [{"image": held_out.images[:COUNT]}], **given)
    single = ek.validate(digits / "m.ekm", feeds(), **given)
    assert gate(whole, "min_sqnr_db").measured == pytest.approx(gate(single, "min_sqnr_db").measured, abs=0.01)
    assert gate(whole, "min_agreement").measured == gate(single, "min_agreement").measured


def test_a_nan_passes_no_gate():
    zero = net([helper.make_node("Div", ["x", "z"], ["y"])], {"z": np.zeros(6, np.float32)})
    identity = net([helper.make_node("Identity", ["x"], ["y"])])
    data = [{"x": np.zeros((1, 6), np.float32)}]
    report = ek.validate(ek.compile(zero), data, float_model=identity, min_sqnr_db=-300, progress=False)
    assert report.failures == ("min_sqnr_db",)


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("outputs", [["good", "bad"], ["bad", "good"]])
def test_what_is_no_number_passes_no_gate_wherever_it_stands(odd, outputs):
    nodes = [helper.make_node("Identity", ["x"], ["good"]), helper.make_node("Add", ["x", "w"], ["bad"])]
    exact, off = (net(nodes, {"w": np.full(6, w, np.float32)}, outputs=outputs) for w in (0, odd))
    data = [{"x": np.eye(6, dtype=np.float32)[:1]}]  # class 0, as argmax has it of NaN
    limits = {"min_sqnr_db": -300, **({"min_agreement": 1.0} if np.isnan(odd) else {})}
    given = {"float_model": exact, "progress": False, "output": "bad"}
    assert ek.validate(ek.compile(off), data, **given, **limits).failures == tuple(limits)
    lines = ek.checklist(ek.compile(off), data, runs=2, float_model=exact, progress=False).failures
    assert {"cosine above 0.995", "SQNR above 30 dB"} <= set(lines)


def test_the_worst_output_counts():
    nodes = [helper.make_node("Identity", ["x"], ["good"]), helper.make_node("Mul", ["x", "w"], ["bad"])]
    exact = net(nodes, {"w": np.ones(6, np.float32)}, outputs=["good", "bad"])
    off = net(nodes, {"w": np.full(6, 1.1, np.float32)}, outputs=["good", "bad"])
    data = [{"x": np.ones((1, 6), np.float32)}]
    report = ek.validate(ek.compile(off), data, float_model=exact, min_sqnr_db=30, progress=False)
    assert gate(report, "min_sqnr_db").measured == pytest.approx(20, abs=0.01)
    assert "'bad', worst of 2" in gate(report, "min_sqnr_db").source


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "at least one limit must be given"),
        ({"max_drop": 0.1}, r"max_drop must have float_model and data and labels .*--float.*--labels"),
        ({"max_drop": 0.1, "float_model": 1, "data": 1}, r"max_drop must have labels to be measured; give labels"),
        ({"min_sqnr_db": 30, "data": 1}, r"min_sqnr_db must have float_model to be measured"),
        ({"min_agreement": 0.9, "float_model": 1}, r"min_agreement must have data to be measured"),
        ({"max_drop": 5, "float_model": 1}, r"max_drop must be between -1 and 1, got 5; a share, 0\.01 for one point"),
        ({"min_agreement": float("nan")}, r"min_agreement must be between 0 and 1, got nan"),
        ({"min_sqnr_db": float("inf")}, "min_sqnr_db must be a finite number, got inf"),
        ({"max_latency_ms": -1}, "max_latency_ms must be a finite number of at least 0, got -1"),
        ({"max_bytes": "much"}, "max_bytes must be at least one byte"),
        ({"max_memory_bytes": 0}, "max_memory_bytes must be at least one byte"),
        ({"max_bytes": 1, "top": 0}, "top must be at least 1"),
        ({"max_bytes": 1, "runs": 0}, "runs must be at least 1"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_runs(given, message, monkeypatch):
    monkeypatch.setattr("edgekern.analysis.gates.InferenceSession", lambda *_, **__: pytest.fail("the work was begun"))
    stands = {"float_model": quickstart.MODEL, "data": feeds()}
    told = {name: stands.get(name, value) for name, value in given.items()}
    with pytest.raises(ArgumentValueError, match=f"validate: {message}"):
        ek.validate("m.ekm", progress=False, **told)


@pytest.mark.parametrize(
    ("data", "truth", "message"),
    [
        (feeds(), [0] * (COUNT - 1), "labels must be one for each sample, got 39"),
        (feeds(), [0] * (COUNT + 1), "labels must be one for each sample, got 41 for 40"),
        (feeds(), [10] * COUNT, r"label 10 is none of the model's 10 classes, 0 to 9; shift labels"),
        ([], [0], "data holds no samples"),
    ],
)
def test_labels_and_data_that_do_not_fit_are_refused(digits, data, truth, message):
    with pytest.raises(ArgumentValueError, match=message):
        ek.validate(digits / "m.ekm", data, truth, float_model=quickstart.MODEL, max_drop=0.1, progress=False)


def test_a_drop_that_nothing_could_fail_is_refused(digits):
    given = {"float_model": quickstart.MODEL, "progress": False}
    wrong = (labels() + 5) % 10
    with pytest.raises(ArgumentValueError, match=r"max_drop must be below what the float model scores, 0\.00%.*offset"):
        ek.validate(digits / "m.ekm", feeds(), wrong, **given, max_drop=0.0)


@pytest.mark.parametrize("top", [10, 11])
def test_a_rank_that_all_labels_have_is_refused(digits, top):
    given = {"float_model": quickstart.MODEL, "max_drop": 0.1, "progress": False}
    with pytest.raises(ArgumentValueError, match=r"validate: top must be less than the model's 10 classes.*got 1[01]"):
        ek.validate(digits / "m.ekm", feeds(), labels(), top=top, **given)


def test_labels_that_are_one_off_are_told(digits):
    inside = [at for at, label in enumerate(labels()) if label < 9]
    data, truth = [feeds()[at] for at in inside], labels()[inside] + 1
    with pytest.warns(
        EdgekernWarning, match=r"validate: 0\.00% of the labels are right, and 100.*label_offset.* by -1"
    ):
        ek.validate(digits / "m.ekm", data, truth, float_model=quickstart.MODEL, max_drop=-0.01, progress=False)


@pytest.mark.parametrize("data", [iter([]), [3], "x.npz", np.zeros(3)])
def test_what_is_no_feed_is_told(digits, data):
    with pytest.raises(ArgumentTypeError, match=r"validate: (each of data|data) must"):
        ek.validate(digits / "m.ekm", data, float_model=quickstart.MODEL, min_sqnr_db=1, progress=False)


def test_another_float_model_is_told(digits):
    other = net([helper.make_node("Flatten", ["image"], ["z"])], inputs={"image": ["n", 1, 8, 8]}, outputs=["z"])
    with pytest.raises(ArgumentValueError, match="none is in both; is it another model"):
        ek.validate(digits / "m.ekm", feeds(), float_model=other, min_sqnr_db=1, progress=False)


def test_the_command_ends_with_its_verdict(digits, monkeypatch, capsys):
    monkeypatch.chdir(digits)
    model = str(quickstart.MODEL)
    command = ["validate", "m.ekm", "x.npz", "--float", model, "--labels", "labels.npy"]
    well = [
        "--max-drop",
        "0.05",
        "--min-sqnr",
        "20",
        "--min-agreement",
        "0.9",
        "--max-bytes",
        "4M",
        "--max-memory",
        "1G",
    ]
    assert cli.run([*command, *well, "--max-latency", "60s", "--runs", "2", "--top", "2", "--threads", "1"]) == 0
    shown = capsys.readouterr().out
    assert "all gates passed" in shown
    assert "top-2 lost" in shown
    assert "2 runs on this machine, 1 thread" in shown
    assert cli.run([*command, "--min-sqnr", "300", "--json"]) == 1
    both = capsys.readouterr()
    assert json.loads(both.out)["failures"] == ["min_sqnr_db"]
    assert "1 of 1 gates FAILED: min_sqnr_db" in both.err
    assert cli.run(["validate", "m.ekm", "x.npz", "--max-drop", "0.1"]) == 2
    assert "--labels" in capsys.readouterr().err
    for wrong in ("5", "fast", "-1ms"):
        assert cli.run(["validate", "m.ekm", "--max-latency", wrong]) == 2
        assert "--max-latency takes a time such as 5ms" in capsys.readouterr().err
    assert cli.run(["validate", "bytes.ekm", "x.npz", "--float", model, "--min-sqnr", "20"]) == 0


@pytest.mark.parametrize(("given", "ms"), [("5ms", 5), ("250us", 0.25), (" .5 s ", 500), ("2.ms", 2)])
def test_times_are_read(given, ms):
    from edgekern.cli.gates import read_latency

    assert read_latency("validate", given) == pytest.approx(ms)


def test_batches_and_sequences_of_other_sizes_are_compared():
    model = net([helper.make_node("Relu", ["x"], ["y"])], inputs={"x": ["n", "s", 6]})
    program = ek.compile(model, batch=1, shapes={"s": (2, 4)})
    rng = np.random.default_rng(0)
    data = [{"x": rng.normal(0, 1, (rows, length, 6)).astype(np.float32)} for rows, length in ((1, 2), (3, 4), (2, 2))]
    report = ek.validate(program, data, float_model=model, min_sqnr_db=100, progress=False)
    assert report.passed
    assert "6 samples" in gate(report, "min_sqnr_db").source
    two = ek.compile(model, batch=2, shapes={"s": 2})
    with pytest.raises(ArgumentValueError, match="must have shape"):  # a last batch that the program cannot take
        ek.validate(two, [data[0]], float_model=model, min_sqnr_db=100, progress=False)


def test_another_float_model_is_said_to_be_another(digits):
    other = onnx.load(quickstart.MODEL)
    [bias] = [one for one in other.graph.initializer if one.name == other.graph.node[-1].input[2]]
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + 1, bias.name))
    with pytest.warns(EdgekernWarning, match="validate: program was made of another model"):
        report = ek.validate(digits / "m.ekm", feeds()[:4], float_model=other, min_agreement=0.1, progress=False)
    assert report.passed
