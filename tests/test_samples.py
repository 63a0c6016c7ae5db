"""Where calibration data comes from: each reader against what was written, and what it says of bad input."""

import json
import struct
import weakref

import numpy as np
import pytest

import edgekern as ek
from edgekern.calibration.sources import raw
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning

SHAPE = (3, 4, 5)
INPUTS = {"x": (None, *SHAPE)}


def rows(count, shape=SHAPE, dtype=np.float32, seed=0):
    made = np.random.default_rng(seed).normal(0, 50, (count, *shape))
    return made.astype(dtype)


def joined(samples, name="x"):
    return np.concatenate([feeds[name] for feeds in samples])


# Arrays and iterables


@pytest.mark.parametrize("batch", [None, 1, 3, 0])
@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_arrays_know_their_number_before_they_are_read(tmp_path, batch, suffix):
    data = rows(21)
    for at, part in enumerate(np.split(data, [5, 13])):
        path = tmp_path / f"{at}.{suffix}"
        np.save(path, part) if suffix == "npy" else np.savez(path, x=part)
    samples = ek.samples(tmp_path, INPUTS, batch=batch)
    assert samples.num_samples == 21
    assert len(samples) == len(list(samples)) == len(list(samples))
    assert np.array_equal(joined(samples), data)
    numbers = [n for numbers, _ in samples.numbered() for n in numbers]
    assert numbers == list(range(21))


def test_an_iterable_of_feeds_passes_as_it_is():
    feeds = [{"x": rows(2)}, {"x": rows(3)}]
    samples = ek.samples(feeds, INPUTS, labels=np.arange(5))
    assert [given is made for given, made in zip(feeds, samples, strict=True)] == [True, True]
    assert samples.num_samples == 5
    with pytest.raises(ArgumentTypeError, match="must have a length"):
        ek.samples(iter(feeds), INPUTS)


# Raw numbers


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, np.float16])
def test_a_folder_of_raw_files(tmp_path, dtype):
    data = rows(9, dtype=dtype)
    for at, row in enumerate(data):
        row.tofile(tmp_path / f"{at:02d}.bin")
    samples = ek.samples(tmp_path, _Typed(dtype), batch=4)
    assert [len(feeds["x"]) for feeds in samples] == [4, 4, 1]
    made = joined(samples)
    assert made.dtype == dtype
    assert np.array_equal(made, data)


class _Typed:
    """Stands for a session whose input x has some dtype."""

    def __init__(self, dtype, shape=("n", *SHAPE)):
        self.dtype, self.shape = dtype, shape

    def get_inputs(self):
        class Node:
            name, shape, dtype = "x", self.shape, np.dtype(self.dtype)

        return [Node]


def test_float32_is_read_for_other_floats(tmp_path):
    data = rows(1)
    data.tofile(tmp_path / "0.bin")
    assert np.array_equal(joined(ek.samples(tmp_path, _Typed(np.float16))), data.astype(np.float16))


@pytest.mark.parametrize("size", [0, 239, 241, 480])
def test_a_raw_file_of_another_size_is_refused_with_both_figures(tmp_path, size):
    (tmp_path / "0.bin").write_bytes(bytes(size))
    with pytest.raises(ArgumentValueError, match=rf"0\.bin has {size} bytes.*takes 240 bytes as float32"):
        list(ek.samples(tmp_path, INPUTS))


def test_several_inputs_lie_in_folders_of_their_names(tmp_path):
    inputs = {"x": (None, *SHAPE), "y": (None, 2)}
    x, y = rows(3), rows(3, (2,))
    for name, data in (("x", x), ("y", y)):
        (tmp_path / name).mkdir()
        for at, row in enumerate(data):
            row.tofile(tmp_path / name / f"{at}.bin")
    samples = ek.samples(tmp_path, inputs)
    assert np.array_equal(joined(samples), x)
    assert np.array_equal(joined(samples, "y"), y)
    (tmp_path / "y" / "2.bin").unlink()
    with pytest.raises(ArgumentValueError, match=r"2\.bin is in one of them only"):
        ek.samples(tmp_path, inputs)


def test_one_file_of_all_samples_is_divided_by_a_samples_size(tmp_path):
    inputs = {"x": (1, *SHAPE), "y": (1, 2)}
    x, y = rows(5), rows(5, (2,))
    path = tmp_path / "calib_set.bin"
    path.write_bytes(b"".join(a.tobytes() + b.tobytes() for a, b in zip(x, y, strict=True)))
    samples = ek.samples(path, inputs)
    assert len(samples) == 5  # the model takes one at a time
    assert np.array_equal(joined(samples), x)
    assert np.array_equal(joined(samples, "y"), y)
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ArgumentValueError, match=r"has 1241 bytes, and a sample takes 248"):
        ek.samples(path, inputs)


def test_a_feed_is_gone_before_the_next_one_is_read(tmp_path, monkeypatch):
    rows(10).tofile(tmp_path / "set.bin")
    made, alive = [], []
    read = raw.CalibSet.read

    def watched(self, number):
        alive.append(sum(reference() is not None for reference in made))
        return read(self, number)

    monkeypatch.setattr(raw.CalibSet, "read", watched)
    for feeds in ek.samples(tmp_path / "set.bin", INPUTS, batch=2):
        made.append(weakref.ref(feeds["x"]))
        del feeds
    assert len(made) == 5
    assert max(alive) == 0


def test_a_free_size_needs_a_header(tmp_path):
    rows(2).tofile(tmp_path / "set.bin")
    free = {"x": (None, 3, "h", "w")}
    with pytest.raises(ArgumentValueError, match=r"size of a sample is not known; fix it"):
        ek.samples(tmp_path / "set.bin", free)
    entry = {"name": "x", "dtype": "float32", "shape": list(SHAPE)}
    header = {"format": "edgekern.samples", "version": 1, "samples": 2, "inputs": [entry]}
    beside = tmp_path / "set.bin.json"
    beside.write_text(json.dumps(header))
    assert np.array_equal(joined(ek.samples(tmp_path / "set.bin", free)), rows(2))
    for wrong, message in (
        ({**header, "samples": 3}, "its header says 3 samples"),
        ({**header, "colour": "red"}, "has the key 'colour'"),
        ({**header, "version": 2}, "no header of samples"),
        ({**header, "inputs": [{**entry, "name": "z"}]}, "has no input 'x'"),
        ({**header, "inputs": [{**entry, "shape": [1, 4, 15]}]}, r"the model takes \(3, 'h', 'w'\)"),
        ({**header, "inputs": [{**entry, "dtype": "colour"}]}, "no header of samples"),
    ):
        beside.write_text(json.dumps(wrong))
        with pytest.raises(ArgumentValueError, match=message):
            ek.samples(tmp_path / "set.bin", free)


# QNN's input list


def test_an_input_list_names_inputs_or_takes_them_in_order(tmp_path, monkeypatch):
    inputs = {"x": (1, *SHAPE), "y": (1, 2)}
    x, y = rows(2), rows(2, (2,))
    for name, data in (("x", x), ("y", y)):
        for at, row in enumerate(data):
            row.tofile(tmp_path / f"{name}{at}.raw")
    listed = tmp_path / "input_list.txt"
    listed.write_text("#out1 out2\n%out3\ny:=y0.raw x:=x0.raw\n\nx1.raw y1.raw\n")
    for source in (listed, tmp_path):
        samples = ek.samples(source, inputs)
        assert len(samples) == 2
        assert np.array_equal(joined(samples), x)
        assert np.array_equal(joined(samples, "y"), y)
    (tmp_path / "elsewhere").mkdir()
    moved = tmp_path / "elsewhere" / "list.txt"
    listed.rename(moved)
    monkeypatch.chdir(tmp_path)  # names are relative to the list, else to the current folder
    assert np.array_equal(joined(ek.samples(moved, inputs)), x)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x:=x.raw", r"line 2 has no path for \['y'\]"),
        ("x:=x.raw z:=x.raw", r"line 2 names 'z'"),
        ("x.raw", r"line 2 has 1 paths"),
        ("x:=gone.raw y:=x.raw", r"names gone\.raw, which is neither in"),
        ("x:=x.raw y:=x.raw", r"x\.raw has 240 bytes, but a sample of input 'y'"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line, message):
    rows(1).tofile(tmp_path / "x.raw")
    (tmp_path / "input_list.txt").write_text(f"# out\n{line}\n")
    with pytest.raises(ArgumentValueError, match=message):
        list(ek.samples(tmp_path, {"x": (1, *SHAPE), "y": (1, 2)}))


# Sound


def write_wav(path, values, *, rate=16000, form=1, bits=16, chunks=b""):
    frames = np.atleast_2d(values.T).T
    dtype = {(1, 8): "u1", (1, 16): "<i2", (1, 32): "<i4", (3, 32): "<f4", (3, 64): "<f8"}[form, bits]
    scale = {1: 1 << (bits - 1), 3: 1}[form]
    stored = (frames * scale + (128 if bits == 8 else 0)).astype(dtype).tobytes()
    channels = frames.shape[1]
    block = channels * bits // 8
    head = struct.pack("<4sIHHIIHH", b"fmt ", 16, form, channels, rate, rate * block, block, bits)
    body = head + chunks + struct.pack("<4sI", b"data", len(stored)) + stored
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WAVE" + body)


@pytest.mark.parametrize(("form", "bits"), [(1, 8), (1, 16), (1, 32), (3, 32), (3, 64)])
@pytest.mark.parametrize("shape", [(100,), (1, 100)])
def test_sound_is_cut_into_windows_of_mono(tmp_path, form, bits, shape):
    quarter = np.random.default_rng(1).integers(-4, 4, (250, 2)) / 4  # what 8 bits hold
    write_wav(tmp_path / "a.wav", quarter, form=form, bits=bits, chunks=struct.pack("<4sI4s", b"LIST", 3, b"abc\0"))
    write_wav(tmp_path / "b.wav", quarter[:30, :1], form=form, bits=bits)
    samples = ek.samples(tmp_path, {"x": (None, *shape)}, labels=[7, 9])
    assert samples.labels.tolist() == [7, 7, 9]
    made = joined(samples).reshape(3, 100)
    assert made.dtype == np.float32
    assert np.array_equal(made[:2].reshape(-1), quarter[:200].mean(axis=1).astype(np.float32))
    assert np.array_equal(made[2], np.pad(quarter[:30, 0], (0, 70)).astype(np.float32))


def test_sound_of_another_rate_is_resampled_or_refused(tmp_path, monkeypatch):
    tone = np.sin(np.arange(800) * 2 * np.pi / 40)
    write_wav(tmp_path / "a.wav", tone, rate=8000, form=3, bits=32)
    pytest.importorskip("scipy")
    made = joined(ek.samples(tmp_path, {"x": (None, 1600)}, rate=16000))
    wanted = np.sin(np.arange(1600) * 2 * np.pi / 80)
    assert np.abs(made - wanted)[0, 100:-100].max() < 0.01
    monkeypatch.setitem(__import__("sys").modules, "scipy.signal", None)
    with pytest.raises(ArgumentValueError, match=r"a\.wav: 8000 Hz, the model's 16000.*need scipy; pip install scipy"):
        ek.samples(tmp_path, {"x": (None, 1600)}, rate=16000)


def test_sound_of_two_rates_needs_the_models(tmp_path):
    for rate in (8000, 16000):
        write_wav(tmp_path / f"{rate}.wav", np.zeros(100), rate=rate)
    with pytest.raises(ArgumentValueError, match=r"rates \[8000, 16000\]; give the model's"):
        ek.samples(tmp_path, {"x": (None, 50)})


def test_damaged_sound_is_named_and_left_out(tmp_path):
    for at in range(3):
        write_wav(tmp_path / f"{at}.wav", np.zeros(100))
    (tmp_path / "1.wav").write_bytes(b"RIFF\0\0\0\0WAVEfmt ")
    with pytest.warns(EdgekernWarning, match=r"1 of 3 are left out.*1\.wav"):
        made = list(ek.samples(tmp_path, {"x": (None, 100)}, max_unreadable=0.4))
    assert len(made[0]["x"]) == 2


# Texts


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"[PAD]": 3, "a": 0, "b": 1, "c": 2}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="c"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.enable_padding(pad_id=3, pad_token="[PAD]")
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_texts_become_tokens(tmp_path, tokenizer):
    (tmp_path / "t.txt").write_text("a b\n\nb\na b c a b c\n")
    free = {"input_ids": (None, None), "attention_mask": (None, None), "token_type_ids": (None, None)}
    [feeds] = ek.samples(tmp_path / "t.txt", free, tokenizer=tokenizer, max_length=5)
    assert feeds["input_ids"].tolist() == [[0, 1, 3, 3, 3], [1, 3, 3, 3, 3], [0, 1, 2, 0, 1]]
    assert feeds["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert feeds["token_type_ids"].dtype == np.int64
    lengths = [f["input_ids"].shape[1] for f in ek.samples(tmp_path / "t.txt", free, tokenizer=tokenizer, batch=1)]
    assert lengths == [2, 1, 6]  # sequences vary from feed to feed
    fixed = ek.samples(tmp_path / "t.txt", {"input_ids": (1, 4)}, tokenizer=tokenizer)
    assert [f["input_ids"].shape for f in fixed] == [(1, 4)] * 3


def test_texts_say_what_they_lack(tmp_path, tokenizer):
    (tmp_path / "t.txt").write_text("a b\n")
    for inputs, options, message in (
        ({"input_ids": (1, 4)}, {}, r"need the model's tokenizer\.json"),
        ({"pixels": (1, 4)}, {"tokenizer": tokenizer}, "but the model has the input 'pixels'"),
        ({"input_ids": (1, 4)}, {"tokenizer": tokenizer, "max_length": 5}, "max_length is 5, but the model takes 4"),
        ({"input_ids": (1, 4)}, {"tokenizer": tmp_path / "t.txt"}, r"is no tokenizer\.json"),
        ({"input_ids": (1, 4)}, {"tokenizer": tokenizer, "padding": "left"}, "padding must be"),
        (
            {"input_ids": (1, 4)},
            {"tokenizer": tokenizer, "preset": "unit"},
            "'preset' is no option of data of the kind",
        ),
    ):
        with pytest.raises(ArgumentValueError, match=message):
            ek.samples(tmp_path / "t.txt", inputs, **options)


# Which kind


def test_folders_say_what_they_hold(tmp_path):
    with pytest.raises(ArgumentValueError, match="holds no samples"):
        ek.samples(tmp_path, INPUTS)
    rows(1).tofile(tmp_path / "0.bin")
    np.save(tmp_path / "0.npy", rows(2))
    with pytest.raises(ArgumentValueError, match=r"of several kinds, \['arrays', 'raw'\]; say which"):
        ek.samples(tmp_path, INPUTS)
    assert ek.samples(tmp_path, INPUTS, kind="raw").num_samples == 1
    assert ek.samples(tmp_path, INPUTS, kind="arrays").num_samples == 2
    with pytest.raises(ArgumentValueError, match="kind must be one of"):
        ek.samples(tmp_path, INPUTS, kind="films")
    with pytest.raises(ArgumentValueError, match=r"of several kinds, \['arrays', 'calib_set'\]"):
        ek.samples([tmp_path / "0.npy", tmp_path / "0.bin"], INPUTS)
    with pytest.raises(ArgumentValueError, match=r"'size' is no option of data of the kind raw; leave it out \(--size"):
        ek.samples(tmp_path, INPUTS, kind="raw", size=3)
    with pytest.raises(ArgumentValueError, match=r"'limit' is no option of data of the kind arrays; .* \(--samples\)"):
        ek.samples(tmp_path, INPUTS, kind="arrays", limit=3)


def test_limits_are_spread_over_all_samples(tmp_path):
    rows(10).tofile(tmp_path / "set.bin")
    samples = ek.samples(tmp_path / "set.bin", INPUTS, limit=4, labels=np.arange(10))
    numbers = [n for numbers, _ in samples.numbered() for n in numbers]
    assert numbers == [0, 2, 5, 7]
    assert np.array_equal(joined(samples), rows(10)[numbers])


def test_a_last_batch_that_the_model_cannot_take_is_refused_before_the_work(tmp_path):
    rows(10).tofile(tmp_path / "set.bin")
    assert len(ek.samples(tmp_path / "set.bin", {"x": (5, *SHAPE)})) == 2
    with pytest.raises(ArgumentValueError, match="the model takes 4 rows at a time, got 10 samples"):
        ek.samples(tmp_path / "set.bin", {"x": (4, *SHAPE)})
    with pytest.raises(ArgumentValueError, match="the model takes 5 rows at a time, got batch=2"):
        ek.samples(tmp_path / "set.bin", {"x": (5, *SHAPE)}, batch=2)


def test_labels_are_read_from_a_file(tmp_path):
    np.save(tmp_path / "x.npy", rows(10))
    np.save(tmp_path / "labels.npy", np.arange(10))
    (tmp_path / "text.npy").write_text("labels")
    made = ek.samples(tmp_path / "x.npy", INPUTS, labels=tmp_path / "labels.npy", label_offset=2)
    assert made.labels.tolist() == list(range(2, 12))
    with pytest.raises(ArgumentValueError, match=r"text\.npy is no \.npy file of labels"):
        ek.samples(tmp_path / "x.npy", INPUTS, labels=tmp_path / "text.npy")


@pytest.mark.parametrize("labels", [[1, 2], [1.0] * 10, [[1]] * 10, "labels.csv"])
def test_labels_that_do_not_fit_are_refused(tmp_path, labels):
    np.save(tmp_path / "x.npy", rows(10))
    with pytest.raises(ArgumentValueError, match="labels"):
        ek.samples(tmp_path / "x.npy", INPUTS, labels=labels)
