"""Language models in files with packed weights: the same bits as packing at load, no copy, nothing damaged; methods."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgekern import _core, cli, llm
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, MemoryBudgetError
from edgekern.llm.methods.layers import LayerRounder, Text
from edgekern.llm.methods.rotation import Rotated, Rotation, Source
from edgekern.llm.methods.rounding import Inputs, SignedGrid, nearest, round_matrix
from edgekern.llm.packing import Rounded, WeightFormat
from edgekern.llm.weights import BIAS_NAMES, LAYER_NAMES, layer_name

from llm_files import SMALL, random_tensors, write_gguf, write_huggingface, write_llama2c
from reference.llama import Llama

IDS = [1, 17, 250, 3, 99, 42, 7, 7, 201, 64, 128, 13, 5, 299, 0, 31]
BIASED = replace(SMALL, qkv_bias=True, heads=6, dim=96, hidden=172)
FORMS = [("int8", None), ("int4", 32), ("int4", 64), ("int4", 128), ("int2", 64), ("int2", 128)]
METHODS = ["hqq", "gptq", "awq", "awq+gptq"]


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(5)
    return [rng.integers(0, SMALL.vocab, 100).tolist() for _ in range(6)]


def written(folder, config=SMALL, seed=7):
    return write_huggingface(folder / f"model{config.dim}", config, random_tensors(config, seed))


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return written(tmp_path_factory.mktemp("quantize"))


# --- the file


@pytest.mark.parametrize(("kind", "group"), FORMS)
@pytest.mark.parametrize("config", [SMALL, BIASED, replace(SMALL, tied=True)], ids=["plain", "biased", "tied"])
def test_a_saved_model_has_the_bits_of_one_packed_at_load(tmp_path, isa, config, kind, group):
    path, out = written(tmp_path, config), tmp_path / "model.ekllm"
    made = llm.quantize(path, out, weights=kind, group_size=group)
    mapped = llm.load(out, isa=isa)
    packed = llm.load(path, weights=kind, group_size=group, isa=isa)
    np.testing.assert_array_equal(mapped.logits(IDS), packed.logits(IDS))
    assert mapped.config == config
    assert mapped.weights == packed.weights
    assert mapped.weight_bytes == packed.weight_bytes
    assert made.nbytes == out.stat().st_size
    assert made.weight_bytes >= mapped.weight_bytes


def test_formats_of_other_files_come_through(tmp_path):
    tensors = random_tensors(SMALL)
    import gguf

    for path in (
        write_gguf(tmp_path / "m.gguf", SMALL, tensors, quantized=gguf.GGMLQuantizationType.Q8_0),
        write_gguf(tmp_path / "n.gguf", SMALL, tensors, quantized=gguf.GGMLQuantizationType.Q4_0),
        write_llama2c(tmp_path / "m.bin", SMALL, tensors),
    ):
        llm.quantize(path, tmp_path / "out.ekllm")
        expected = llm.load(path, weights="int4").logits(IDS)
        np.testing.assert_array_equal(llm.load(tmp_path / "out.ekllm").logits(IDS), expected)


def test_loading_packs_nothing(small, tmp_path, monkeypatch):
    out = tmp_path / "model.ekllm"
    llm.quantize(small, out, weights="int4")
    expected = llm.load(out).logits(IDS)

    def refuse(*_):
        raise AssertionError("weights were packed at load")

    for name in ("pack_groups", "pack_weights", "pack_weights_int4", "pack_float32", "restore_packed"):
        monkeypatch.setattr(_core, name, refuse)
    for name in ("quantize_groups", "dynamic_quantize"):
        monkeypatch.setattr(_core, name, refuse)
    np.testing.assert_array_equal(llm.load(out).logits(IDS), expected)
    with pytest.raises(AssertionError, match="packed at load"):
        llm.load(small)


# A process that maps a model grows by less than a fifth of its weights; one that packs them by all of them.
CHILD = """
import sys
from edgekern import llm
def anonymous():
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon"))
first, path = sys.argv[1:]
llm.load(first).prefill([1, 2])
before = anonymous()
decoder = llm.load(path, window=32, max_chunk=8, weights=sys.stdin.read() or None)
decoder.prefill([1, 2])
print(anonymous() - before, decoder.weight_bytes)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_loading_takes_no_copy_of_the_weights(small, tmp_path):
    config = replace(SMALL, dim=512, hidden=1408, layers=4, heads=8, kv_heads=4, head_dim=64, vocab=8000)
    path, out = written(tmp_path, config), tmp_path / "middle.ekllm"
    llm.quantize(path, out, weights="int8")
    grown = {}
    for model, kind in ((out, ""), (path, "int8")):
        child = subprocess.run(
            [sys.executable, "-c", CHILD, str(small), str(model)],
            input=kind,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert child.returncode == 0, child.stderr
        grown[kind], weights = map(int, child.stdout.split())
    assert grown[""] < weights / 5
    assert grown["int8"] > weights


def test_a_budget_does_not_count_mapped_weights(tmp_path):
    config = replace(SMALL, dim=256, hidden=1024, layers=4, vocab=4000)
    path, out = written(tmp_path, config), tmp_path / "model.ekllm"
    llm.quantize(path, out, weights="int8")
    with pytest.raises(MemoryBudgetError):
        llm.load(path, memory_budget="3MB", window=64, max_chunk=16)
    decoder = llm.load(out, memory_budget="3MB", window=64, max_chunk=16)
    assert decoder.weight_bytes > 4e6
    with pytest.raises(MemoryBudgetError, match=r"takes \d") as refused:
        llm.load(out, memory_budget=1)
    assert "weights='int4'" not in str(refused.value)


@pytest.mark.parametrize("kind", ["int8", "int2"])
def test_every_flipped_bit_is_refused(small, tmp_path, kind):
    out = tmp_path / "model.ekllm"
    llm.quantize(small, out, weights=kind)
    good, rng = out.read_bytes(), np.random.default_rng(3)
    header = int.from_bytes(good[:8], "little")
    spots = [*range(8), *rng.integers(8, 8 + header, 40), *range(8 + header, 8 + header + 64)]
    spots += [*rng.integers(8 + header, len(good), 200)]
    for at in map(int, spots):
        bad = bytearray(good)
        bad[at] ^= 1 << int(rng.integers(8))
        out.write_bytes(bad)
        with pytest.raises(ArtifactError):
            llm.load(out)
    for size in (0, 7, 100, header, header + 8, len(good) - 64, len(good) - 1):
        out.write_bytes(good[:size])
        with pytest.raises(ArtifactError):
            llm.load(out)


class Forged:
    """Writes a file anew whose hashes are right and whose content is not."""

    def __init__(self, path, monkeypatch):
        self.path, self.patch = path, monkeypatch

    def write(self, model, change):
        from edgekern.llm import packed_file

        add = packed_file.Writer.add
        self.patch.setattr(packed_file.Writer, "add", lambda w, name, content: add(w, name, change(name, content)))
        llm.quantize(model, self.path)
        self.patch.undo()


@pytest.mark.parametrize(
    "change",
    [
        lambda name, x: x[:-4096] if name == "embedding" and x.ndim == 1 else x[:-8] if name == "embedding" else x,
        lambda name, x: np.full_like(x, np.nan) if name.endswith("norm") else x,
        lambda name, x: np.full_like(x, np.inf) if name == "layers.0.o.scale" else x,
        lambda name, x: np.full_like(x, 0xFF) if name == "layers.1.down" else x,
        lambda name, x: x[:-64] if name == "head" else x,
    ],
    ids=["embedding", "norm", "unit", "scales", "panels"],
)
def test_files_that_hash_well_and_hold_nonsense_are_refused(small, tmp_path, monkeypatch, change):
    out = tmp_path / "model.ekllm"
    Forged(out, monkeypatch).write(small, change)
    with pytest.raises(ArtifactError, match="is damaged"):
        llm.load(out)


def rehashed(content, change):
    """A file whose header is changed, and hashed again."""
    size = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:size])
    change(header)
    text = content[:8] + json.dumps(header, separators=(",", ":")).encode().ljust(size - 8)
    assert len(text) == size
    return text + hashlib.sha256(text).digest() + content[size + 32 :]


def model_of(header):
    return json.loads(header["__metadata__"]["ekllm.model"])


def with_metadata(key, text):
    return lambda header: header["__metadata__"].update({f"ekllm.{key}": text(header)})


@pytest.mark.parametrize(
    "change",
    [
        with_metadata("model", lambda header: json.dumps(model_of(header) | {"embedding": ["F32"]})),
        with_metadata("model", lambda header: "\ud800"),
        with_metadata("hashes", lambda header: '"\ud800"'),
        lambda header: header["head"].update(dtype="F32"),
        lambda header: header["head"].update(shape=[-1]),
    ],
    ids=["a list", "half a sign", "half a string", "floats", "a negative shape"],
)
def test_headers_that_hash_well_and_hold_nonsense_are_refused(small, tmp_path, change):
    out = tmp_path / "model.ekllm"
    llm.quantize(small, out)
    good = out.read_bytes()
    out.write_bytes(rehashed(good, lambda header: None))
    llm.load(out)
    out.write_bytes(rehashed(good, change))
    with pytest.raises(ArtifactError, match="is damaged"):
        llm.load(out)


def test_another_layout_is_refused_by_name(small, tmp_path, monkeypatch):
    out = tmp_path / "model.ekllm"
    llm.quantize(small, out)
    monkeypatch.setattr(_core, "PACKED_LAYOUT", _core.PACKED_LAYOUT + 1)
    with pytest.raises(ArtifactError, match="is of layout '1', and this edgekern reads '2'; write it again"):
        llm.load(out)


def test_lazy_loading_looks_at_all_but_the_panels(small, tmp_path):
    out = tmp_path / "model.ekllm"
    llm.quantize(small, out)
    good = out.read_bytes()
    np.testing.assert_array_equal(llm.load(out, verify="lazy").logits(IDS), llm.load(out).logits(IDS))
    bad = bytearray(good)
    bad[20] ^= 1
    out.write_bytes(bad)
    with pytest.raises(ArtifactError):
        llm.load(out, verify="lazy")
    with pytest.raises(ArgumentValueError, match="verify must be 'full' or 'lazy'"):
        llm.load(out, verify="none")


def test_what_a_file_holds_cannot_be_asked_otherwise(small, tmp_path):
    out = tmp_path / "model.ekllm"
    llm.quantize(small, out, weights="int4", group_size=64)
    llm.load(out, weights="int4", group_size=64)
    for asked in ({"weights": "int8"}, {"weights": "float32"}, {"group_size": 32}):
        with pytest.raises(ArgumentValueError, match="holds int4 g64"):
            llm.load(out, **asked)


# --- methods


def test_rotations_are_orthogonal_at_every_size():
    rng = np.random.default_rng(0)
    for size in (1, 2, 8, 48, 64, 86, 172, 2048):
        x = rng.normal(size=(3, size)).astype(np.float32)
        turned = Rotation(size, rng)(x)
        np.testing.assert_allclose(turned @ turned.T, x @ x.T, rtol=1e-4, atol=1e-3)
        assert size == 1 or np.abs(turned - x).max() > 0.1


def reference_logits(folder, config, tensors):
    """In float32, of a model with these tensors."""
    return Llama(llm.read_model(write_huggingface(folder, config, tensors))[0]).logits(IDS)


def as_tensors(source, config):
    names = [layer_name(i, kind) for i in range(config.layers) for kind in LAYER_NAMES if not kind.endswith("norm")]
    tensors = {name: source.read(name) for name in names}
    vectors = ["attention_norm", "ffn_norm", *(BIAS_NAMES if config.qkv_bias else ())]
    tensors |= {
        layer_name(i, kind): source.vector(layer_name(i, kind)) for i in range(config.layers) for kind in vectors
    }
    return tensors | {
        "embedding": source.embedding().read(),
        "final_norm": np.ones(config.dim, np.float32),
        "head": source.head(),
    }


@pytest.mark.parametrize("config", [SMALL, BIASED, replace(SMALL, tied=True)], ids=["plain", "biased", "tied"])
def test_rotation_leaves_the_logits(tmp_path, config):
    model, _ = llm.read_model(written(tmp_path, config))
    source = Rotated(model, 3)
    expected = Llama(model).logits(IDS)
    turned = reference_logits(tmp_path / "turned", source.config, as_tensors(source, config))
    assert np.abs(source.read("layers.0.gate") - model["layers.0.gate"].read()).max() > 0.1
    np.testing.assert_allclose(turned, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("config", [SMALL, BIASED], ids=["plain", "biased"])
def test_awq_factors_leave_the_logits(tmp_path, monkeypatch, config, texts):
    """With rounding left out, all that AWQ does to norms, values and scales cancels."""
    from edgekern.llm.methods import layers

    model, _ = llm.read_model(written(tmp_path, config))
    source, form = Source(model), WeightFormat("int4", 32)
    seen = []

    def factors(w, form, inputs, magnitudes):
        seen.append(np.sqrt(magnitudes / magnitudes.mean()).astype(np.float32))
        return seen[-1]

    class Unrounded(Rounded):
        def restored(self):
            return self.codes * self.scale

    monkeypatch.setattr(layers, "awq_factors", factors)
    monkeypatch.setattr(layers, "round_matrix", lambda w, *_: Unrounded(w, np.ones((len(w), 1), np.float32)))
    rounder = LayerRounder(source, form, "awq", Text(source, texts), lambda: None)
    tensors = {"embedding": source.embedding().read()}
    for i in range(config.layers):
        made = rounder.layer(i)
        q, k, v = np.split(made.qkv.restored(), [config.q_width, config.q_width + config.kv_width])
        gate, up = np.split(made.gate_up.restored(), 2)
        parts = {"q": q, "k": k, "v": v, "o": made.o.restored(), "gate": gate, "up": up, "down": made.down.restored()}
        parts |= {"attention_norm": made.attention_norm, "ffn_norm": made.ffn_norm}
        if config.qkv_bias:
            biases = np.split(made.qkv_bias, [config.q_width, config.q_width + config.kv_width])
            parts |= dict(zip(BIAS_NAMES, biases, strict=True))
        tensors |= {layer_name(i, kind): w for kind, w in parts.items()}
    head, tensors["final_norm"] = rounder.head()
    tensors["head"] = head.restored()
    assert len(seen) == 4 * config.layers + 1
    assert all(np.ptp(each) > 0.1 for each in seen)
    scaled = reference_logits(tmp_path / "scaled", config, tensors)
    np.testing.assert_allclose(scaled, Llama(model).logits(IDS), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(("kind", "group"), FORMS)
def test_gptq_lowers_the_error_of_the_outputs(rng, kind, group):
    form = WeightFormat(kind, group)
    mix = rng.normal(size=(172, 172)) * np.geomspace(1, 0.01, 172)
    x = (rng.normal(size=(2000, 172)) @ mix.T).astype(np.float32)
    w = rng.normal(size=(40, 172)).astype(np.float32)
    inputs = Inputs.of(x)

    def error(rounded):
        return np.square(x.astype(np.float64) @ (w - rounded.restored()).T).mean()

    assert error(round_matrix(w, form, "gptq", inputs)) < 0.6 * error(nearest(w, form))


@pytest.mark.parametrize("group", [32, 128])
def test_scales_that_are_fitted_together_lower_it_further(rng, monkeypatch, group):
    form = WeightFormat("int4", group)
    x = (rng.normal(size=(1000, 172)) @ (rng.normal(size=(172, 172)) * np.geomspace(1, 0.1, 172)).T).astype(np.float32)
    w, inputs, errors = rng.normal(size=(40, 172)).astype(np.float32), Inputs.of(x), []
    for refit in (lambda *_: None, SignedGrid.refit):
        monkeypatch.setattr(SignedGrid, "refit", refit)
        left = w - round_matrix(w, form, "gptq", inputs).restored()
        errors.append(np.square(x.astype(np.float64) @ left.T).mean())
    assert errors[1] < 0.99 * errors[0]


@pytest.mark.parametrize("zeroed", [0, 1])
def test_what_is_packed_is_what_codes_stand_for(rng, zeroed):
    codes = rng.integers(-8, 8, (70, 172)).astype(np.int8)
    scale = (2.0 ** rng.integers(-8, -2, (70, 6))).astype(np.float32)
    zero = rng.integers(-8, 8, (70, 6)).astype(np.float32) if zeroed else None
    rounded = Rounded(codes, scale, zero, 32)
    x = np.eye(172, dtype=np.float32)
    got = _core.product(x, rounded.pack(), None, None, 0.0, False, None, "", 1)
    np.testing.assert_allclose(got.T, rounded.restored(), rtol=1e-6)
    turned = _core.product(x, rounded.pack(interleaved=True), None, None, 0.0, False, None, "", 1)
    np.testing.assert_allclose(turned.T[::2], rounded.restored()[:35], rtol=1e-6)


@pytest.mark.parametrize("rotate", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_methods_come_near_the_float_model(small, tmp_path, texts, method, rotate):
    out = tmp_path / "model.ekllm"
    made = llm.quantize(small, out, method=method, rotate=rotate, tokens=texts)
    assert made.method == ("rotation+" if rotate else "") + method
    assert made.tokens == (0 if method == "hqq" else 600)
    exact = llm.load(small, weights="float32").logits(IDS)
    got = llm.load(out).logits(IDS)
    assert np.square(got - exact).mean() < 0.1 * exact.var()


def test_gptq_comes_nearer_than_plain_rounding(small, tmp_path, texts):
    exact, errors = llm.load(small, weights="float32"), {}
    ids = texts[0]
    for method in ("nearest", "gptq"):
        llm.quantize(small, tmp_path / "model.ekllm", method=method, group_size=128, tokens=texts[1:])
        got = llm.load(tmp_path / "model.ekllm")
        exact.cache.reset()
        errors[method] = np.square(got.logits(ids) - exact.logits(ids)).mean()
    assert errors["gptq"] < 0.9 * errors["nearest"]


def test_the_same_text_gives_the_same_file(small, tmp_path, texts):
    for name in ("a", "b"):
        llm.quantize(small, tmp_path / name, method="gptq", rotate=True, tokens=texts)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"weights": "float32"}, "weights must be int4, int8 or int2"),
        ({"weights": "int8", "group_size": 32}, "group_size is for weights='int4'"),
        ({"method": "magic"}, "method must be one of nearest, hqq, gptq, awq, awq\\+gptq, got 'magic'"),
        ({"method": "hqq", "weights": "int8"}, "method='hqq' fits groups of int4"),
        ({"method": "hqq", "weights": "int2"}, "method='hqq' fits groups of int4"),
        ({"weights": "int2", "group_size": 32}, "group_size must be 64 or 128 with weights='int2'"),
        ({"method": "gptq"}, "method='gptq' wants calibration text; pass texts= or tokens="),
        ({"method": "gptq", "texts": ["a"], "tokens": [[1]]}, "one of both"),
        ({"method": "gptq", "texts": ["a"]}, "texts= needs a tokenizer"),
        ({"method": "gptq", "tokens": [[1, 300]]}, r"tokens must lie in \[0, 300\)"),
        ({"method": "gptq", "tokens": []}, "there is no token"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
    ],
)
def test_what_cannot_be_done_is_refused_and_writes_nothing(small, tmp_path, given, message):
    with pytest.raises(ArgumentValueError, match=f"llm.(quantize|load): .*{message}"):
        llm.quantize(small, tmp_path / "out.ekllm", **given)
    assert list(tmp_path.iterdir()) == []


def test_types_are_checked(small, tmp_path):
    for given in (
        {"tokens": [["a"]]},
        {"tokens": 5},
        {"tokens": [None]},
        {"rotate": "yes"},
        {"max_tokens": "many"},
        {"method": 3},
    ):
        with pytest.raises(ArgumentTypeError, match=r"llm\.quantize: "):
            llm.quantize(small, tmp_path / "out.ekllm", **{"method": "gptq", "tokens": [[1]], **given})


def test_an_input_is_never_replaced(tmp_path):
    path = write_llama2c(tmp_path / "m.bin", SMALL, random_tensors(SMALL))
    with pytest.raises(ArgumentValueError, match="is the input"):
        llm.quantize(path, path)
    folder = written(tmp_path)
    with pytest.raises(ArgumentValueError, match="is the input"):
        llm.quantize(folder, folder / "model.safetensors")


def test_neither_text_nor_tokenizer_is_replaced(test_data, tmp_path, capsys):
    text, tokenizer = tmp_path / "text.txt", tmp_path / "tok.bin"
    text.write_text("Once upon a time")
    tokenizer.write_bytes((test_data / "llm" / "tok512.bin").read_bytes())
    before = text.read_bytes(), tokenizer.read_bytes()
    model = test_data / "llm" / "stories260K.bin"
    command = ["llm-quantize", str(model), "--calibration", str(text), "--tokenizer", str(tokenizer)]
    for out in (text, tokenizer):
        assert cli.run([*command, "--method", "gptq", "-o", str(out)]) == 2
        assert "is the input" in capsys.readouterr().err
    with pytest.raises(ArgumentValueError, match="is the input"):
        llm.quantize(model, tokenizer, tokenizer=tokenizer)
    assert (text.read_bytes(), tokenizer.read_bytes()) == before


# --- a trained model


def test_the_tokenizer_travels_in_the_file(test_data, tmp_path, capsys):
    folder = test_data / "llm"
    out = tmp_path / "stories.ekllm"
    command = ["llm-quantize", str(folder / "stories260K.bin"), "-o", str(out), "--weights", "int8"]
    assert cli.run([*command, "--tokenizer", str(folder / "tok512.bin")]) == 0
    assert "matrices as int8 by nearest" in capsys.readouterr().out
    plain = llm.load(folder / "stories260K.bin", tokenizer=folder / "tok512.bin")
    mapped = llm.load(out)
    text = "Once upon a time, héllo"
    assert mapped.encode(text) == plain.encode(text)
    ids = plain.encode("Once upon a time")
    assert mapped.decode([*mapped.generate(ids)]) == plain.decode([*plain.generate(ids)])
    assert mapped.tokenizer.stops == plain.tokenizer.stops
    assert cli.run(["generate", str(out), "--prompt", "Once", "--max-new-tokens", "3"]) == 0


def test_gptq_takes_back_a_third_of_what_four_bits_lose(test_data, tmp_path, capsys):
    folder, text = test_data / "llm", test_data / "text" / "tinystories.txt"
    parts = text.read_text().split("<|endoftext|>")
    (tmp_path / "calibration.txt").write_text("<|endoftext|>".join(parts[600:640]))
    (tmp_path / "held_out.txt").write_text("<|endoftext|>".join(parts[:20]))
    found = {}
    for method in ("nearest", "gptq"):
        out = tmp_path / "stories.ekllm"
        common = ["--tokenizer", str(folder / "tok512.bin"), "--separator", "<|endoftext|>"]
        command = ["llm-quantize", str(folder / "stories260K.bin"), "-o", str(out), "--group-size", "128", *common]
        assert cli.run([*command, "--method", method, "--calibration", str(tmp_path / "calibration.txt")]) == 0
        capsys.readouterr()
        command = ["perplexity", str(out), str(tmp_path / "held_out.txt"), "--kv", "float32", *common]
        assert cli.run([*command, "--reference", str(folder / "stories260K.bin")]) == 0
        rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:3]]
        found["float"], found[method] = (float(row[-5]) for row in rows)
    assert found["gptq"] - found["float"] < 2 / 3 * (found["nearest"] - found["float"])
