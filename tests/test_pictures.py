"""Pictures as samples: every option against plain NumPy and Pillow, and what is said of damaged ones."""

import json
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from onnx import TensorProto, helper

import edgekern as ek
from edgekern.errors import ArgumentValueError, CalibrationError, EdgekernWarning

Image = pytest.importorskip("PIL.Image", reason="needs edgekern[images]")

NCHW = {"x": (None, 3, 16, 20)}
PLAIN = {"scale": 1.0}


def pixels(height=16, width=20, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def write(path, array, **given):
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(array).save(path, **given)
    return path


def one(source, inputs, **options):
    [feeds] = ek.samples(source, inputs, **options)
    return feeds["x"][0]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("channels", ["RGB", "BGR", None])
@pytest.mark.parametrize(
    "options", [PLAIN, {"mean": 127.5, "std": 127.5}, {"scale": 1 / 255, "mean": (0.1, 0.2, 0.3), "std": (1, 2, 3)}]
)
def test_pixels_become_numbers(tmp_path, layout, channels, options):
    array = pixels()
    path = write(tmp_path / "a.png", array)
    shape = (1, 3, 16, 20) if layout == "NCHW" else (1, 16, 20, 3)
    made = one(path, {"x": shape}, **({} if channels is None else {"channels": channels}), **options)
    wanted = array[..., ::-1] if channels == "BGR" else array
    wanted = (wanted * options.get("scale", 1.0) - options.get("mean", 0)) / options.get("std", 1)
    assert made.dtype == np.float32
    assert made.flags.c_contiguous
    assert np.allclose(made, wanted.transpose(2, 0, 1) if layout == "NCHW" else wanted, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(40, 60), (61, 37), (16, 20), (20, 16), (33, 33)])
@pytest.mark.parametrize("size", [None, 24, (30, 40)])
def test_pictures_are_resized_then_cropped_to_the_centre(tmp_path, height, width, size):
    array = pixels(height, width)
    path = write(tmp_path / "a.png", array)
    made = one(path, NCHW, size=size, **PLAIN).transpose(1, 2, 0)
    short, picture = min(height, width), Image.fromarray(array)
    if isinstance(size, tuple):
        sides = size
    elif size is not None:
        sides = (size * height // short, size * width // short)
    else:  # the least that covers the model's size
        sides = (16, 16 * width // height) if width / height >= 20 / 16 else (20 * height // width, 20)
    resized = np.asarray(picture.resize(sides[::-1], Image.Resampling.BILINEAR))
    top, left = (sides[0] - 16) // 2, (sides[1] - 20) // 2
    assert np.array_equal(made, resized[top : top + 16, left : left + 20])


def test_grey_and_colour_become_what_the_model_takes(tmp_path):
    grey = write(tmp_path / "g.png", pixels()[..., 0])
    made = one(grey, NCHW, **PLAIN)
    assert np.array_equal(made, np.broadcast_to(pixels()[..., 0], (3, 16, 20)))
    colour = write(tmp_path / "c.png", pixels())
    made = one(colour, {"x": (1, 1, 16, 20)}, **PLAIN)
    assert np.array_equal(made[0], np.asarray(Image.fromarray(pixels()).convert("L")))


def test_integers_take_pixels_as_they_are(tmp_path):
    class Session:
        def get_inputs(self):
            class Node:
                name, shape, type = "x", (1, 16, 20, 3), "tensor(uint8)"

            return [Node]

    path = write(tmp_path / "a.png", pixels())
    made = one(path, Session())
    assert made.dtype == np.uint8
    assert np.array_equal(made, pixels())


def test_codes_stand_for_preprocessed_pixels(tmp_path):
    class Session:
        def get_inputs(self):
            class Node:
                name, shape, type, scale, zero_point = "x", (1, 16, 20, 3), "tensor(int8)", 0.5, 3

            return [Node]

    path = write(tmp_path / "a.png", pixels())
    made = one(path, Session(), mean=127.5, std=2)
    wanted = np.rint((pixels() - np.float32(127.5)) / 2 / np.float32(0.5)) + 3
    assert made.dtype == np.int8
    assert np.array_equal(made, wanted.clip(-128, 127))
    with pytest.raises(ArgumentValueError, match="nothing says how pixels"):
        ek.samples(path, Session())


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_stand_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]  # a viewer turns by so many quarters, counter-clockwise
    stored = np.rot90(pixels(), -turns)
    path = write(tmp_path / "a.png", np.ascontiguousarray(stored), exif=exif)
    assert np.array_equal(one(path, {"x": (1, 16, 20, 3)}, **PLAIN), pixels())


def test_the_preset_of_imagenet_is_its_figures(tmp_path):
    path = write(tmp_path / "a.png", pixels(300, 280))
    samples = ek.samples(path, {"x": (None, 3, 224, 224)}, preset="imagenet")
    [feeds] = samples
    resized = np.asarray(Image.fromarray(pixels(300, 280)).resize((256, 274), Image.Resampling.BILINEAR))
    wanted = (resized[25:249, 16:240] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(feeds["x"][0], wanted.transpose(2, 0, 1), atol=1e-5)
    assert samples.preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert json.loads(json.dumps(samples.preprocessing)) == samples.preprocessing
    again = ek.samples(path, {"x": (None, 3, 224, 224)}, preprocessing=samples.preprocessing)
    assert again.preprocessing == samples.preprocessing
    other = ek.samples(path, {"x": (None, 3, 224, 224)}, preprocessing=samples.preprocessing, scale=1.0)
    assert other.preprocessing == {**samples.preprocessing, "scale": 1.0}
    with pytest.raises(ArgumentValueError, match="the preprocessing is of the kind 'wav', and this data is images"):
        ek.samples(path, {"x": (None, 3, 224, 224)}, preprocessing={"kind": "wav"})
    with pytest.raises(ArgumentValueError, match="would have 224x224 pixels, but input 'x' takes 299x299"):
        ek.samples(path, {"x": (None, 3, 299, 299)}, preset="imagenet")


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        (NCHW, {}, r"nothing says how pixels 0\.\.255 become float32.*preset='imagenet'"),
        (NCHW, {"preset": "cifar"}, "preset must be one of"),
        (NCHW, {"mean": (1, 2)}, "mean must have 1 number or 3"),
        (NCHW, {"std": 0}, "std must be finite and not 0, got 0, 0, 0"),
        (NCHW, {"scale": 1.0, "size": 0}, "size must be one or two positive numbers"),
        (NCHW, {"scale": 1.0, "crop": (1, 2, 3)}, "crop must be one or two positive numbers"),
        (NCHW, {"scale": 1.0, "crop": 12}, "would have 12x12 pixels, but input 'x' takes 16x20"),
        (NCHW, {"scale": 1.0, "channels": "GRAY"}, "channels must be one of"),
        (NCHW, {"scale": 1.0, "layout": "CHW"}, "layout must be"),
        (NCHW, {"scale": 1.0, "resample": "magic"}, "resample must be one of"),
        (NCHW, {"scale": 1.0, "rate": 3}, "'rate' is no option of data of the kind images"),
        ({"x": (None, 3, 4)}, PLAIN, "which holds no pictures"),
        ({"x": (None, 3, 4, 3)}, PLAIN, "does not say where its channels are"),
        ({"x": (1, 3, 4, 4), "y": (1,)}, PLAIN, "pictures are of one input"),
    ],
)
def test_options_that_cannot_be_are_refused(tmp_path, inputs, options, message):
    path = write(tmp_path / "a.png", pixels())
    with pytest.raises(ArgumentValueError, match=message):
        ek.samples(path, inputs, **options)


def test_a_picture_below_the_crop_is_named(tmp_path):
    path = write(tmp_path / "a.png", pixels(15, 40))
    with pytest.raises(ArgumentValueError, match=r"a\.png has 15x40 pixels, fewer than the crop 16x20"):
        list(ek.samples(path, NCHW, crop=(16, 20), **PLAIN))


def test_damaged_pictures_are_counted_and_named(tmp_path):
    for at in range(10):
        write(tmp_path / f"{at}.png", pixels(seed=at))
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    (tmp_path / "7.png").write_bytes(b"no picture")
    samples = ek.samples(tmp_path, NCHW, batch=4, max_unreadable=0.2, labels=np.arange(10), **PLAIN)
    with pytest.warns(EdgekernWarning, match=r"2 of 10 are left out.*3\.png.*7\.png"):
        made = list(samples.numbered())
    assert [numbers for numbers, _ in made] == [[0, 1, 2], [4, 5, 6], [8, 9]]
    assert np.array_equal(made[1][1]["x"][0], pixels(seed=4).transpose(2, 0, 1))
    assert len(samples.unreadable) == 2
    with pytest.raises(
        ArgumentValueError, match=r"3\.png.* cannot be read, 1 of 10 so far, and a share of 0\.01 may be"
    ):
        list(ek.samples(tmp_path, NCHW, **PLAIN))


def test_labels_come_from_folders_or_a_csv(tmp_path):
    for name in ("cat/a", "cat/b", "ant/a"):
        write(tmp_path / f"{name}.png", pixels())
    samples = ek.samples(tmp_path, NCHW, labels="folders", label_offset=1, **PLAIN)
    assert samples.labels.tolist() == [1, 2, 2]  # ant, cat
    table = tmp_path / "labels.csv"
    table.write_text("wnid,file,label\nn1,cat/a.png,4\nn2,cat/b.png,5\nn3,ant/a.png,6\n")
    assert ek.samples(tmp_path, NCHW, labels=table, **PLAIN).labels.tolist() == [6, 4, 5]
    table.write_text("cat/a.png,4\nb.png,5\n")
    with pytest.raises(ArgumentValueError, match=r"has no label for 1 of 3 files, such as .*ant/a\.png"):
        ek.samples(tmp_path, NCHW, labels=table, **PLAIN)
    table.write_text("file,label\ncat/a.png,tabby\n")
    with pytest.raises(
        ArgumentValueError, match=r"row 2 must hold a file and its class number, got 'cat/a\.png,tabby'"
    ):
        ek.samples(tmp_path, NCHW, labels=table, **PLAIN)
    with pytest.raises(ArgumentValueError, match="takes a folder a class"):
        ek.samples(tmp_path / "cat", NCHW, labels="folders", **PLAIN)
    for name in ("7", "11"):
        write(tmp_path / "numbers" / f"{name}.png", pixels()).parent.joinpath(name).mkdir()
        (tmp_path / "numbers" / f"{name}.png").rename(tmp_path / "numbers" / name / "a.png")
    assert ek.samples(tmp_path / "numbers", NCHW, labels="folders", **PLAIN).labels.tolist() == [11, 7]


def test_the_calibration_json_of_mnn(tmp_path):
    for at in range(6):
        write(tmp_path / "photos" / f"{at}.png", pixels(30, 30, seed=at))
    given = {"format": "BGR", "mean": [127.5] * 3, "normal": [1 / 127.5] * 3, "width": 20, "height": 16}
    given |= {"path": "photos", "used_image_num": 4, "feature_quantize_method": "KL"}
    path = tmp_path / "quant.json"
    path.write_text(json.dumps(given))
    samples = ek.samples(path, NCHW)
    made = np.concatenate([feeds["x"] for feeds in samples])
    assert len(made) == samples.num_samples == 4
    stretched = np.asarray(Image.fromarray(pixels(30, 30)).resize((20, 16), Image.Resampling.BILINEAR))
    assert np.allclose(made[0], (stretched[..., ::-1] / 127.5 - 1).transpose(2, 0, 1), atol=1e-5)
    for change, message in (
        ({"colour": 1}, "has the key 'colour', which means nothing here"),
        ({"path": "gone"}, "must have a path that is a folder, got 'gone'"),
        ({"format": "YUV"}, "has the format 'YUV'"),
        ({"input_type": "sequence"}, "has input_type 'sequence'"),
        ({"normal": [0, 1, 1]}, "is no calibration JSON"),
        ({"center_crop_w": 0.8}, "crops to"),
    ):
        path.write_text(json.dumps({**given, **change}))
        with pytest.raises(ArgumentValueError, match=message):
            ek.samples(path, NCHW)


def test_pictures_of_a_worker_are_the_same(tmp_path):
    for at in range(5):
        write(tmp_path / f"{at}.png", pixels(seed=at))
    samples = ek.samples(tmp_path, NCHW, batch=2, **PLAIN)
    sent = pickle.loads(pickle.dumps(samples.part(1, 3)))
    assert [feeds["x"].tobytes() for feeds in sent] == [feeds["x"].tobytes() for feeds in list(samples)[1:]]


def test_a_calibration_carries_how_pictures_were_made_and_those_it_kept(tmp_path):
    """Through workers, files and ranges; data that is made otherwise is refused."""
    from calibrator_models import small_cnn  # skips without the toolkit

    model = small_cnn().SerializeToString()
    for at in range(12):
        write(tmp_path / "photos" / f"{at:02d}.png", pixels(seed=at))
    made = ek.Calibrator(model, progress=False)
    pictures = ek.samples(tmp_path / "photos", NCHW, batch=5, mean=127.5, std=64.0)
    made.collect_many(pictures)
    with ThreadPoolExecutor(2) as pool:
        sent = ek.Calibrator(model, progress=False).collect_many(pictures, executor=pool)
    sent.save(tmp_path / "state.npz")
    resumed = ek.Calibrator.resume(model, tmp_path / "state.npz", progress=False)
    ranges = made.compute_ranges("auto")
    assert ranges.preprocessing == pictures.preprocessing
    assert ranges.options["samples"] == 8
    assert sent.compute_ranges("auto") == ranges
    assert resumed.compute_ranges("auto") == ranges
    assert ranges.to_dict()["preprocessing"] == pictures.preprocessing
    ranges.save(tmp_path / "ranges.json")
    assert ek.Ranges.load(tmp_path / "ranges.json") == ranges
    other = ek.samples(tmp_path / "photos", NCHW, scale=1.0)
    with pytest.raises(CalibrationError, match="preprocessed otherwise than the ones before"):
        resumed.collect_many(other)


def test_codes_without_a_scale_are_refused(tmp_path):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (8, 8), (9, 99, 250)).save(tmp_path / "photos" / "a.png")
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "codes",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.UINT8, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    [feeds] = ek.samples(tmp_path / "photos", model)
    assert feeds["x"].max() == 250
    with pytest.raises(ArgumentValueError, match="'x' is uint8, and the model does not say what its codes stand for"):
        list(ek.samples(tmp_path / "photos", model, preset="symmetric"))


def test_without_pillow_the_extra_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", pixels())
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ArgumentValueError, match=r"pictures need PIL; .*pip install 'edgekern\[images\]'"):
        ek.samples(path, NCHW, **PLAIN)
