"""Every format gives the same model, and a damaged file gives a typed error that names what is wrong."""

import json
import re
import struct
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


LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_theta": 5e5},
        {"rope_theta": None, "rope_parameters": {"rope_theta": 5e5, "rope_type": "default"}},
        {"rope_theta": None, "rope_scaling": {"rope_theta": 5e5, "type": None}},
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": None}, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_parameters": {"rope_theta": 500_000}},
        {"rope_theta": 5e5, "rope_parameters": None, "partial_rotary_factor": None, "layer_types": None},
    ],
)
def test_the_base_of_the_angles_is_found_wherever_it_stands(tmp_path, tensors, changes):
    """A null beside rope_parameters gave base 10000 without a word."""
    assert read_model(_config_with(tmp_path, tensors, **changes))[0].config.rope_base == 5e5


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": LINEAR},
        {"rope_parameters": LINEAR | {"rope_theta": SMALL.rope_base}, "rope_theta": None},
        {"rope_parameters": {"rope_theta": SMALL.rope_base}, "rope_scaling": LINEAR},
        {"rope_parameters": LINEAR | {"original_max_position_embeddings": None}, "rope_scaling": {"rope_type": None}},
    ],
)
def test_scaling_is_found_wherever_it_stands(tmp_path, tensors, changes):
    """rope_parameters hid what rope_scaling said."""
    rope = read_model(_config_with(tmp_path, tensors, **changes))[0].config.rope
    assert (rope.kind, rope.factor) == ("linear", 4.0)


def test_a_null_is_no_trained_length(tmp_path, tensors):
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": None}
    config = read_model(_config_with(tmp_path, tensors, rope_parameters=scaling))[0].config
    assert config.rope.original_context == config.context


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": None, "num_key_value_heads": SMALL.kv_heads},
        {"tie_word_embeddings": None},
        {"sliding_window": None, "use_sliding_window": None},
        {"bos_token_id": None, "eos_token_id": None},
        {"attention_bias": None, "mlp_bias": None, "hidden_act": None, "quantization_config": None},
        {"rope_scaling": None, "rope_parameters": None},
        {"layer_types": ["full_attention"] * SMALL.layers},
    ],
)
def test_a_null_is_as_good_as_nothing(tmp_path, tensors, changes):
    assert read_model(_config_with(tmp_path, tensors, **changes))[0].config == SMALL


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 5e5}}, "rope_theta = 500000.0 and 10000.0; one is expe"),
        ({"rope_parameters": {"rope_type": "default"}, "rope_scaling": LINEAR}, "rope_type = 'default' and 'linear'"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e6}}}, "of their own for 'full_attention' layers"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "rotates a part of each head"),
        ({"partial_rotary_factor": 0.5}, "rotates a part of each head"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "truncate": False}}, "yarn without truncation"),
        ({"layer_types": ["full_attention", "sliding_attention"]}, "layers of the types"),
    ],
)
def test_what_a_config_says_twice_or_of_some_layers_is_refused(tmp_path, tensors, changes, words):
    with pytest.raises(ArtifactError, match=re.escape(words)):
        read_model(_config_with(tmp_path, tensors, **changes))


def test_types_that_are_not_read_have_the_names_of_the_gguf_package():
    from edgekern.llm.gguf_types import ENCODINGS, OTHER_TYPES

    theirs = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    assert theirs.items() <= ({code: encoding.name for code, encoding in ENCODINGS.items()} | OTHER_TYPES).items()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "output.weight",
            r"types Q6_K \(1, 'output\.weight' the first\).*--output-tensor-type q8_0 --token-embedding-type",
        ),
        ("blk.0.attn_q.weight", r"types Q6_K \(1, 'blk\.0\.attn_q\.weight' the first\); .*take the model's Q8_0"),
    ],
)
def test_a_tensor_type_that_is_not_read_is_named_with_what_would_do(tmp_path, tensors, name, words):
    """What llama-quantize makes of Q4_0 has an output tensor of 'type 14'."""
    path = write_gguf(tmp_path / "m.gguf", SMALL, tensors, quantized=gguf.GGMLQuantizationType.Q4_0)
    content = bytearray(path.read_bytes())
    at = content.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name)
    kind = at + 4 + 8 * int.from_bytes(content[at : at + 4], "little")
    content[kind : kind + 4] = struct.pack("<I", gguf.GGMLQuantizationType.Q6_K)
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=words):
        read_model(path)


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
