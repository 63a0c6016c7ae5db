"""Every format gives the same model, and a damaged file gives a typed error that names what is wrong."""

import json
from dataclasses import replace

import gguf
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgekern import llm
from edgekern.errors import ArtifactError, EdgekernError
from edgekern.llm.encodings import BF16, F16, F32, Q4_0, Q8_0, decode
from edgekern.llm.loading import read_model

from llm_files import SMALL, random_tensors, write_gguf, write_huggingface, write_llama2c

QWEN = replace(SMALL, qkv_bias=True, tied=True)


@pytest.fixture(scope="module")
def tensors():
    return random_tensors(SMALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tensors):
    """One small model in every format."""
    root = tmp_path_factory.mktemp("models")
    write_huggingface(root / "hf", SMALL, tensors)
    write_huggingface(root / "sharded", SMALL, tensors, files=3)
    write_gguf(root / "small.gguf", SMALL, tensors)
    write_llama2c(root / "small.bin", SMALL, tensors)
    return root


@pytest.mark.parametrize("name", ["hf", "sharded", "small.gguf", "small.bin"])
def test_every_format_gives_the_tensors_that_were_written(folder, tensors, name):
    weights, _ = read_model(folder / name)
    assert replace(weights.config, eps=SMALL.eps) == SMALL  # GGUF keeps it as float32
    for key, expected in tensors.items():
        got = weights[key].read()
        if expected.ndim == 1:
            got = weights[key].vector()
        np.testing.assert_array_equal(got, expected, err_msg=key)


@pytest.mark.parametrize("write", [write_gguf, write_huggingface])
def test_qwen_has_biases_and_a_tied_head(tmp_path, write):
    tensors = random_tensors(QWEN)
    weights, _ = read_model(write(tmp_path / "qwen", QWEN, tensors))
    assert replace(weights.config, eps=QWEN.eps) == QWEN
    np.testing.assert_array_equal(weights.of_layer(1, "k_bias").vector(), tensors["layers.1.k_bias"])
    assert weights.head is weights["embedding"]


@pytest.mark.parametrize(
    ("encoding", "kind"),
    [
        (F32, gguf.GGMLQuantizationType.F32),
        (F16, gguf.GGMLQuantizationType.F16),
        (BF16, gguf.GGMLQuantizationType.BF16),
        (Q8_0, gguf.GGMLQuantizationType.Q8_0),
        (Q4_0, gguf.GGMLQuantizationType.Q4_0),
    ],
)
def test_encodings_decode_as_the_gguf_package_does(rng, encoding, kind):
    raw = gguf.quants.quantize(rng.normal(size=(5, 96)).astype(np.float32), kind)
    raw = np.ascontiguousarray(raw).view(np.uint8).reshape(5, -1)
    assert raw.shape[1] == encoding.row_bytes(96)
    expected = gguf.quants.dequantize(raw if kind.name[0] in "QB" else raw.view(f"<f{encoding.bytes}"), kind)
    np.testing.assert_array_equal(decode(raw, encoding, 96), expected)


def test_q4_0_is_taken_as_it_is(tmp_path, tensors):
    """int4 in groups of 32 keeps the file's own codes: the logits are those of its decoded matrices, or nearly."""
    path = write_gguf(tmp_path / "q4.gguf", SMALL, tensors, quantized=gguf.GGMLQuantizationType.Q4_0)
    ids = [1, 5, 9, 200, 31]
    exact = llm.load(path, weights="float32", kv="float32").logits(ids)
    same = llm.load(path, weights="int4", group_size=32, kv="float32").logits(ids)
    again = llm.load(path, weights="int4", group_size=64, kv="float32").logits(ids)
    assert np.abs(same - exact).mean() < 0.3 * np.abs(again - exact).mean()


def _config_with(tmp_path, tensors, **changes):
    return write_huggingface(tmp_path / "hf", SMALL, tensors, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "dynamic NTK"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "longrope"),
        ({"model_type": "mixtral"}, "mixtral"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"num_attention_heads": 3}, "kv_heads"),
        ({"num_hidden_layers": 3}, "layers.2"),
        ({"num_hidden_layers": 1}, "model.layers.1"),
        ({"intermediate_size": 95}, "mlp.gate_proj.weight"),
        ({"vocab_size": 10**9}, "vocab"),
        ({"hidden_size": "64"}, "hidden_size"),
        ({"rms_norm_eps": None}, "rms_norm_eps"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings"),
    ],
)
def test_a_config_that_cannot_be_run_is_refused_by_name(tmp_path, tensors, changes, words):
    with pytest.raises(ArtifactError, match=words):
        read_model(_config_with(tmp_path, tensors, **changes))


@pytest.mark.parametrize(
    "scaling",
    [
        {"rope_type": "linear", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    ],
)
def test_rope_scalings_change_the_angles(tmp_path, tensors, scaling):
    weights, _ = read_model(_config_with(tmp_path, tensors, rope_scaling=scaling))
    assert weights.config.rope.kind == scaling["rope_type"]
    scaled, plain = np.array(weights.config.rope_phases(), float), np.array(SMALL.rope_phases(), float)
    ratio = plain / scaled
    assert ratio.max() == pytest.approx(scaling["factor"], rel=1e-6)
    assert (np.diff(ratio) >= -1e-9).all()
    assert (weights.config.rope_attention > 1) == (scaling["rope_type"] == "yarn")


def test_an_index_may_not_point_outside_its_folder(folder, tmp_path, tensors):
    made = write_huggingface(tmp_path / "hf", SMALL, tensors)
    (made / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../x.safetensors"}}))
    with pytest.raises(ArtifactError, match="plain name"):
        read_model(made)


def test_versions_and_kinds_that_are_not_read_are_named(tmp_path, folder):
    data = (folder / "small.gguf").read_bytes()
    for changed, words in (
        (data[:4] + b"\x01" + data[5:], "version 1"),
        (data[:4] + data[4:8][::-1] + data[8:], "big-endian"),
        (b"GGML" + data[4:], "no GGUF file"),
    ):
        path = tmp_path / "x.gguf"
        path.write_bytes(changed)
        with pytest.raises(ArtifactError, match=words):
            read_model(path)
    path = tmp_path / "x.bin"
    path.write_bytes(b"24ka" + b"\x02" + bytes(300))
    with pytest.raises(ArtifactError, match="version 2"):
        read_model(path)


def test_a_tensor_with_nan_is_named(tmp_path, tensors):
    bad = dict(tensors)
    bad["layers.1.gate"] = tensors["layers.1.gate"].copy()
    bad["layers.1.gate"][3, 4] = np.nan
    with pytest.raises(ArtifactError, match=r"blk\.1\.ffn_gate"):
        llm.load(write_gguf(tmp_path / "x.gguf", SMALL, bad))


def _attempt(path):
    """Load and run; the only exceptions that may come out are edgekern's."""
    try:
        decoder = llm.load(path, weights="int8", window=8, max_chunk=4, num_threads=1, memory_budget=1 << 28)
        decoder.prefill([1, 2, 3])
    except EdgekernError:
        pass


FUZZ = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(name=st.sampled_from(["small.gguf", "small.bin", "hf/model.safetensors", "hf/config.json"]), data=st.data())
def test_damaged_files_give_typed_errors(folder, tmp_path, name, data):
    good = (folder / name).read_bytes()
    header = min(len(good), {"small.bin": 28, "hf/config.json": len(good)}.get(name, 3000))
    if data.draw(st.booleans(), "cut"):
        bad = good[: data.draw(st.integers(0, len(good) - 1), "length")]
    else:
        flips = data.draw(st.lists(st.tuples(st.integers(0, header - 1), st.integers(1, 255)), min_size=1, max_size=4))
        changed = bytearray(good)
        for at, mask in flips:
            changed[at] ^= mask
        bad = bytes(changed)
    made = tmp_path / "damaged"
    made.mkdir(exist_ok=True)
    if name.startswith("hf/"):
        for other in ("config.json", "model.safetensors"):
            (made / other).write_bytes(bad if name.endswith(other) else (folder / "hf" / other).read_bytes())
        _attempt(made)
    else:
        (made / name).write_bytes(bad)
        _attempt(made / name)
