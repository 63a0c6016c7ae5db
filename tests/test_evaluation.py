"""What a classifier gets right: against counting by hand, and what is said of labels and outputs that do not fit."""

import json
import re
import warnings

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, quickstart
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning

from calibrator_models import helper, model_of, small_cnn

onnx = pytest.importorskip("onnx", reason="needs edgekern[toolkit]")
CLASSES = 6


def passes():
    """A model whose scores are its input."""
    return model_of([helper.make_node("Identity", ["x"], ["y"])], ["n", CLASSES])


def scores(count=50, seed=0):
    """With ties, as 8-bit scores have."""
    return np.random.default_rng(seed).integers(0, 5, (count, CLASSES)).astype(np.float32)


def by_hand(given, labels, k):
    order = [sorted(range(CLASSES), key=lambda c, row=row: (-row[c], c)) for row in given]
    return np.mean([label in places[:k] for places, label in zip(order, labels, strict=True)])


@pytest.mark.parametrize("batch", [1, 7, 50])
def test_shares_are_counted(batch):
    given, labels = scores(), np.random.default_rng(1).integers(0, CLASSES, 50)
    feeds = [{"x": given[at : at + batch]} for at in range(0, 50, batch)]
    result = ek.evaluate(passes(), feeds, labels, top=(1, 3, 5, 6), progress=False)
    assert result.samples == 50
    assert result.top == {k: pytest.approx(by_hand(given, labels, k)) for k in (1, 3, 5, 6)}
    assert sum(n for n, _ in result.per_class.values()) == 50
    right = {k: int(((given.argmax(1) == labels) & (labels == k)).sum()) for k in range(CLASSES)}
    assert {k: r for k, (_, r) in result.per_class.items()} == {k: r for k, r in right.items() if (labels == k).any()}


def test_nan_is_never_right():
    given = np.full((1, CLASSES), np.nan, np.float32)
    assert ek.evaluate(passes(), [{"x": given}], [0], progress=False).top[1] == 0
    given[0, :] = [1, np.nan, 0, 0, 0, 0]
    assert ek.evaluate(passes(), [{"x": given}], [0], progress=False).top == {1: 0, 5: 1}


def test_a_program_stands_beside_its_float_model():
    train, held_out = quickstart.load_digits()
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False)
    calibrator.collect_many(train.feeds(batch=64))
    program = ek.compile(ek.quantize(quickstart.MODEL, calibrator.compute_ranges()))
    feeds = [{"image": held_out.images[at : at + 1]} for at in range(200)]
    labels = held_out.labels[:200]
    for model in (program, ek.InferenceSession(program)):
        result = ek.evaluate(model, feeds, labels, versus=quickstart.MODEL, progress=False)
        session = ek.InferenceSession(program)
        ours = [int(session.run(None, given)[0].argmax()) for given in feeds]
        assert result.top[1] == np.mean(ours == labels)
        assert result.float_top == ek.evaluate(quickstart.MODEL, feeds, labels, progress=False).top
        assert 0.95 < result.agreement <= 1
        assert "same highest score as float" in str(result)
    assert ek.evaluate(program, feeds, versus=program, progress=False).agreement == 1


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        ([0] * 49, {}, r"labels must be one for each sample, got 49"),
        ([0] * 51, {}, r"labels must be one for each sample, got 51 for 50"),
        ([CLASSES] * 50, {}, r"label 6 is none of the model's 6 classes, 0 to 5; shift labels with label_offset"),
        ([-1] * 50, {}, r"label -1 is none"),
        ([0] * 50, {"output": "z"}, r"output must be one of \['y'\], got 'z'"),
        ([0] * 50, {"top": ()}, "top must hold positive integers"),
        ([0] * 50, {"top": (0,)}, "top must hold positive integers"),
        (None, {}, "nothing to compare with"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, options, message):
    with pytest.raises(ArgumentValueError, match=message):
        ek.evaluate(passes(), [{"x": scores()}], labels, progress=False, **options)


def test_feeds_are_cut_into_the_rows_of_a_program():
    feeds, labels = [{"x": scores()}], [0] * 50
    fixed = ek.compile(passes(), batch=5)
    assert ek.evaluate(fixed, feeds, labels, progress=False) == ek.evaluate(passes(), feeds, labels, progress=False)
    with pytest.raises(ArgumentValueError, match="must have shape"):
        ek.evaluate(ek.compile(passes(), batch=7), feeds, labels, progress=False)


@pytest.mark.parametrize("wrong", ["photos", [3], [{}]])
def test_what_is_no_feed_is_told(wrong):
    with pytest.raises(ArgumentTypeError, match=r"evaluate: (samples must be feeds|each of samples must map)"):
        ek.evaluate(passes(), wrong, [0], progress=False)


def test_other_outputs_and_feeds_are_refused():
    with pytest.raises(ArgumentTypeError, match="labels must be one integer a sample"):
        ek.evaluate(passes(), [{"x": scores()}], [0.5] * 50)
    with pytest.raises(ArgumentTypeError, match="samples must be feeds"):
        ek.evaluate(passes(), {"x": scores()}, [0] * 50)
    with pytest.raises(ArgumentValueError, match="samples hold none"):
        ek.evaluate(passes(), [], [])
    with pytest.raises(ArgumentValueError, match="onnxruntime cannot run the model on this feed"):
        ek.evaluate(passes(), [{"x": scores()[:, :3]}], [0] * 50)
    images = model_of([helper.make_node("Relu", ["x"], ["y"])], ["n", 3, 4, 4])
    with pytest.raises(ArgumentValueError, match=r"output 'y' has the shape \(2, 3, 4, 4\), which is no score a class"):
        ek.evaluate(images, [{"x": np.zeros((2, 3, 4, 4), np.float32)}], [0, 0])
    with pytest.raises(ArgumentValueError, match=r"scores of shapes \(2, 10\) and \(2, 6\)"):
        ek.evaluate(
            small_cnn(),
            [{"x": np.zeros((2, 3, 4, 6), np.float32)}],
            versus=model_of(
                [
                    helper.make_node("ReduceMean", ["x"], ["y"], axes=[1, 2], keepdims=0),
                ],
                ["n", 3, 4, 6],
            ),
        )


def test_the_command_reads_labels_and_tells_all(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    for at in range(6):
        folder = tmp_path / "data" / ("cat" if at % 2 else "ant")
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(at).integers(0, 256, (8, 8, 3), np.uint8)
        image.fromarray(pixels).save(folder / f"{at}.png")
    model, data = str(tmp_path / "m.onnx"), str(tmp_path / "data")
    how = ["--mean", "127.5", "--std", "127.5", "--layout", "NCHW"]
    command = ["evaluate", model, data, "--labels", "folders", "--vs", model, *how]
    assert cli.run([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["samples"] == 6
    assert told["agreement"] == 1
    assert told["top"] == told["float_top"]
    assert set(told["per_class"]) == {"0", "1"}
    assert told["preprocessing"]["mean"] == [127.5] * 3
    assert cli.run(["calibrate", model, data, "-o", str(tmp_path / "r.json"), *how]) == 0
    capsys.readouterr()
    said = ["evaluate", model, data, "--labels", "folders", "--preprocessing", str(tmp_path / "r.json"), "--json"]
    assert cli.run(said) == 0
    assert json.loads(capsys.readouterr().out)["preprocessing"] == told["preprocessing"]
    assert cli.run([*command, "--label-offset", "9"]) == 2
    assert "label 10 is none of the model's 10 classes" in capsys.readouterr().err


def test_calibration_sets_are_written_and_read_again(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")
    onnx.save(small_cnn(), tmp_path / "m.onnx")
    (tmp_path / "data").mkdir()
    for at in range(5):
        pixels = np.random.default_rng(at).integers(0, 256, (8, 8, 3), np.uint8)
        image.fromarray(pixels).save(tmp_path / "data" / f"{at}.png")
    model, data = str(tmp_path / "m.onnx"), str(tmp_path / "data")
    how = ["--preset", "unit"]
    ranges = tmp_path / "r.json"
    assert cli.run(["calibrate", model, data, "-o", str(ranges), *how]) == 0
    wanted = ek.Ranges.load(ranges)
    assert wanted.preprocessing["scale"] == 1 / 255
    fixed = ["--shape", "x=?,3,8,8"]
    for form, name in (("bin", "raw"), ("calib_set", "set.bin"), ("input_list", "listed"), ("npz", "arrays")):
        written = str(tmp_path / name)
        assert cli.run(["calibration-set", data, "--model", model, "-o", written, "--form", form, *how]) == 0
        assert f"5 samples as {form}" in capsys.readouterr().out
        assert cli.run(["calibrate", model, written, "-o", str(ranges), *fixed]) == 0
        made = ek.Ranges.load(ranges)
        assert made.tensors == wanted.tensors
        assert (made.preprocessing == wanted.preprocessing) is (form == "calib_set")
    assert cli.run(["calibration-set", data, "--model", model, "-o", written, "--form", "npz", *how]) == 2
    assert "is not empty; write to a new folder" in capsys.readouterr().err


@pytest.mark.parametrize("shift", [1, -1])
@pytest.mark.parametrize("beside", [False, True])
def test_labels_that_are_one_off_are_told(shift, beside):
    given = np.eye(CLASSES, dtype=np.float32)[np.random.default_rng(2).integers(1, CLASSES - 1, 40)]
    labels = given.argmax(axis=1) - shift
    other = passes() if beside else None
    message = rf"0.00% of the labels are right, and 100.00% .*offset\) by {re.escape(f'{shift:+d}')}$"
    with pytest.warns(EdgekernWarning, match=message):
        assert ek.evaluate(passes(), [{"x": given}], labels, versus=other, progress=False).top[1] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ek.evaluate(passes(), [{"x": given}], labels + shift, progress=False)
        ek.evaluate(passes(), [{"x": given[:8]}], labels[:8], progress=False)  # which may be chance


@pytest.mark.filterwarnings("always::edgekern.errors.EdgekernWarning")  # which the command prints
def test_the_command_names_the_option_of_shifted_labels(tmp_path, capsys):
    given = np.eye(CLASSES, dtype=np.float32)[np.arange(40) % (CLASSES - 1) + 1]
    (tmp_path / "m.onnx").write_bytes(passes().SerializeToString())
    np.save(tmp_path / "x.npy", given)
    np.save(tmp_path / "y.npy", given.argmax(axis=1) - 1)
    command = ["evaluate", str(tmp_path / "m.onnx"), str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy")]
    assert cli.run(command) == 0
    assert "edgekern: warning: evaluate: 0.00% of the labels" in capsys.readouterr().err
    assert cli.run([*command, "--label-offset", "1"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("top", [(7,), (1, 1000)])
def test_more_than_there_are_classes_is_refused_where_it_was_asked_for(top):
    with pytest.raises(ArgumentValueError, match=rf"top must be of the model's {CLASSES} classes, got {top[-1]}"):
        ek.evaluate(passes(), [{"x": scores()}], [0] * 50, top=top, progress=False)


def test_codes_stand_beside_the_floats_that_they_stand_for(tmp_path, capsys):
    train, held_out = quickstart.load_digits()
    calibrator = ek.Calibrator(quickstart.MODEL, progress=False).collect_many(train.feeds(batch=64))
    ranges = calibrator.compute_ranges()
    plain = ek.compile(ek.quantize(quickstart.MODEL, ranges))
    coded = ek.compile(ek.quantize(quickstart.MODEL, ranges, ek.QuantConfig(inputs="uint8", outputs="uint8")))
    [border] = coded.inputs
    feeds = [{"image": held_out.images[at : at + 1]} for at in range(100)]
    codes = [{"image": ek.quantize_linear(one["image"], border.scale, border.zero_point)} for one in feeds]
    labels = held_out.labels[:100]
    wanted = ek.evaluate(plain, feeds, labels, progress=False)
    for given in (feeds, codes):
        found = ek.evaluate(coded, given, labels, versus=quickstart.MODEL, progress=False)
        assert found.top[1] == pytest.approx(wanted.top[1], abs=0.02)  # scores in 8 bits have ties
        assert found.float_top[1] > 0.95
        assert found.agreement > 0.95
        assert ek.evaluate(plain, given, labels, versus=coded, progress=False).agreement > 0.95
    coded.save(tmp_path / "m.ekm")
    np.save(tmp_path / "x.npy", held_out.images[:100])
    np.save(tmp_path / "y.npy", labels)
    command = ["evaluate", str(tmp_path / "m.ekm"), str(tmp_path / "x.npy"), "--vs", str(quickstart.MODEL), "--json"]
    assert cli.run([*command, "--labels", str(tmp_path / "y.npy")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["agreement"] > 0.95
    assert told["float_top"]["1"] > 0.95
