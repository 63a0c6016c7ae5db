"""The decoder against the NumPy one, on random small models and on a trained one; the same bits everywhere."""

from dataclasses import replace

import numpy as np
import pytest

from edgekern import _core, cli, llm
from edgekern.errors import ArgumentTypeError, ArgumentValueError, KVRewindError, MemoryBudgetError
from edgekern.llm.budget import Settings, plan
from edgekern.llm.config import ModelConfig, RopeScaling
from edgekern.llm.evaluation import evaluate
from edgekern.llm.loading import read_model

from guarded import guarded
from llm_files import SMALL, random_tensors, write_huggingface, write_llama2c
from reference.llama import Llama, rms_norm, rotate, silu

IDS = [1, 17, 250, 3, 99, 42, 7, 7, 201, 64, 128, 13, 5, 299, 0, 31]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_llama2c(tmp_path_factory.mktemp("llm") / "small.bin", SMALL, random_tensors(SMALL))


@pytest.fixture(scope="module")
def stories(test_data):
    """Loads stories260K with its tokenizer."""

    def make(**options):
        folder = test_data / "llm"
        return llm.load(folder / "stories260K.bin", tokenizer=folder / "tok512.bin", **options)

    return make


@pytest.fixture(scope="module")
def story_ids(stories, test_data):
    """The first 50 stories, each cut to 512 tokens."""
    texts = (test_data / "text" / "tinystories.txt").read_text().split("<|endoftext|>")
    encode = stories().encode
    return [encode(text.strip())[:512] for text in texts if text.strip()][:50]


# --- parts


@pytest.mark.parametrize("n", [1, 15, 64, 100, 2048])
def test_norm_products_and_swiglu_match_numpy(isa, rng, n):
    x = guarded(rng.normal(size=(5, n)).astype(np.float32))
    w, gain = rng.normal(size=(70, n)).astype(np.float32), guarded(rng.normal(size=n).astype(np.float32))
    bias, addend = rng.normal(size=70).astype(np.float32), rng.normal(size=(5, 70)).astype(np.float32)
    packed = _core.pack_float32(w)
    got = _core.product(x, packed, guarded(bias), gain, 1e-5, False, guarded(addend), isa, 2)
    expected = rms_norm(x.astype(np.float64), gain, 1e-5) @ w.T.astype(np.float64) + bias + addend
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5 * np.sqrt(n))
    gated = _core.product(x, packed, None, None, 0.0, True, None, isa, 1)
    y = x.astype(np.float64) @ w.T
    np.testing.assert_allclose(gated, silu(y[:, ::2]) * y[:, 1::2], rtol=1e-4, atol=1e-4 * n)


@pytest.mark.parametrize("kind", ["float32", "int8", "int4", "int2"])
def test_products_have_the_same_bits_on_every_isa(rng, kind):
    x, w = rng.normal(size=(7, 100)).astype(np.float32), rng.normal(size=(86, 100)).astype(np.float32)
    gain = rng.normal(size=100).astype(np.float32)
    if kind == "float32":
        packed = _core.pack_float32(w)
    elif kind == "int8":
        codes, scale = _core.dynamic_quantize(w, "", 1)
        packed = _core.pack_weights(codes.T, scale)
    else:
        group, bits = (32, 4) if kind == "int4" else (64, 2)
        packed = _core.pack_groups(*_core.quantize_groups(w, group, 1, bits), group, bits)
    run = [
        _core.product(x, packed, None, gain, 1e-5, True, None, isa, threads).tobytes()
        for isa in _core.available_isas()
        for threads in (1, 3)
    ]
    assert len(set(run)) == 1
    one = _core.product(x[3:4].copy(), packed, None, gain, 1e-5, True, None, "", 1)
    assert one.tobytes() == np.frombuffer(run[0], np.float32).reshape(7, -1)[3].tobytes()


def test_four_bit_scales_of_any_sign_keep_their_values(rng):
    codes = rng.integers(-8, 8, (20, 64)).astype(np.int8)
    scale = np.float32(np.float16(rng.normal(size=(20, 2))))
    scale[3, 1] = 0
    x = np.eye(64, dtype=np.float32) * 127
    got = _core.product(x, _core.pack_groups(codes, scale, 32), None, None, 0.0, False, None, "", 1)
    np.testing.assert_allclose(got, 127 * (codes * np.repeat(scale, 32, axis=1)).T, rtol=1e-6)
    with pytest.raises(ArgumentValueError, match="pack_groups"):
        _core.pack_groups(codes + np.int8(1), scale, 32)


def test_quantizing_groups_is_no_worse_than_rounding(rng):
    w = rng.normal(size=(33, 100)).astype(np.float32)
    w[2, :32] = 0
    codes, scale = _core.quantize_groups(w, 32, 2)
    assert codes.min() >= -8
    assert codes.max() <= 7
    assert (scale > 0).all()
    padded = np.pad(w, ((0, 0), (0, 28))).reshape(33, 4, 32)
    step = np.abs(padded).max(axis=-1, keepdims=True) / 7
    plain = (np.rint(padded / np.where(step > 0, step, 1)) * step - padded) ** 2
    error = (codes * np.repeat(scale, 32, axis=1)[:, :100] - w) ** 2
    assert error.sum() < 0.9 * plain.sum()


@pytest.mark.parametrize("position", [0, 1, 4095, 2**31 + 5, 2**40])
def test_rotations_match_numpy(isa, rng, position):
    phases = SMALL.rope_phases()
    cosines, sines = _core.rope_row(list(phases), position, 1.0)
    x = rng.normal(size=16).astype(np.float32)
    angles = guarded(cosines.reshape(1, 1, 8)), guarded(sines.reshape(1, 1, 8))
    got = _core.rotary(guarded(x.reshape(1, 1, 1, 16)), *angles, 1, isa)
    expected = rotate(x.reshape(1, 1, 16), [position], SMALL).reshape(-1)
    np.testing.assert_allclose(got.reshape(-1), expected, rtol=1e-6, atol=1e-6)


def test_sampler_draws_by_probability_and_keeps_its_promises(rng):
    logits = rng.normal(size=64).astype(np.float32) * 2
    p = np.exp(logits.astype(np.float64))
    p /= p.sum()
    sampler = _core.Sampler(64, 5)
    counts = np.bincount([sampler.draw(logits, 1.0, 0, 1.0) for _ in range(20000)], minlength=64)
    assert np.abs(counts / 20000 - p).max() < 0.015
    assert sampler.draw(logits, 0.0, 0, 1.0) == logits.argmax()
    top = set(np.argsort(-logits)[:3].tolist())
    assert {sampler.draw(logits, 1.5, 3, 1.0) for _ in range(500)} == top
    order = np.argsort(-p)
    nucleus = set(order[: int(np.searchsorted(np.cumsum(p[order]), 0.5)) + 1].tolist())
    assert {sampler.draw(logits, 1.0, 0, 0.5) for _ in range(3000)} == nucleus
    again = [_core.Sampler(64, 9).draw(logits, 1.0, 0, 1.0) for _ in range(2)]
    assert again[0] == again[1]


# --- random models


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        replace(SMALL, kv_heads=4, head_dim=8, tied=True, qkv_bias=True),
        replace(SMALL, rope=RopeScaling("yarn", 4.0, 8)),
        replace(SMALL, rope=RopeScaling("llama3", 8.0, 16), rope_base=500000.0),
        replace(SMALL, rope=RopeScaling("linear", 2.0), window=5),
    ],
    ids=["gqa", "qwen", "yarn", "llama3", "window"],
)
def test_float32_decoder_matches_numpy(tmp_path, config):
    scaling = {}
    if config.rope.kind != "none":
        scaling = {"rope_type": config.rope.kind, "factor": config.rope.factor, "low_freq_factor": config.rope.low}
        scaling |= {
            "high_freq_factor": config.rope.high,
            "original_max_position_embeddings": config.rope.original_context,
        }
    changes = {"rope_scaling": scaling or None}
    if config.window:
        changes |= {"use_sliding_window": True, "sliding_window": config.window}
    folder = write_huggingface(tmp_path / "hf", config, random_tensors(config), **changes)
    decoder = llm.load(folder, weights="float32", kv="float32")
    assert decoder.config == config
    expected = Llama(read_model(folder)[0]).logits(IDS)
    np.testing.assert_allclose(decoder.logits(IDS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weights", ["float32", "int8", "int4", "int2"])
@pytest.mark.parametrize("kv", ["float32", "int8", "k8v4"])
def test_same_bits_on_every_isa_for_any_threads_and_chunks(small, weights, kv):
    bits = set()
    for isa in _core.available_isas():
        for threads, cuts in ((1, [16]), (2, [1] * 16), (2, [3, 8, 5])):
            decoder = llm.load(
                small, weights=weights, kv=kv, window=6, sinks=2, max_chunk=16, isa=isa, num_threads=threads
            )
            ends = np.cumsum(cuts)
            rows = [decoder.logits(IDS[end - cut : end]) for cut, end in zip(cuts, ends, strict=True)]
            bits.add(np.concatenate(rows).tobytes())
    assert len(bits) == 1


def test_sequences_in_one_step_do_not_see_each_other(small):
    together = llm.load(small, num_sequences=3)
    texts = {0: IDS[:5], 1: IDS[5:12], 2: IDS[3:4]}
    for sequence, ids in texts.items():
        together.prefill(ids, sequence=sequence)
    rows = together.step({2: 8, 0: 9, 1: 10})
    for row, (sequence, token) in zip(rows, ((2, 8), (0, 9), (1, 10)), strict=True):
        alone = llm.load(small)
        alone.prefill(texts[sequence])
        np.testing.assert_array_equal(row, alone.step({0: token})[0])


def test_a_batch_gives_each_prompt_the_tokens_it_gets_alone(small):
    decoder = llm.load(small, num_sequences=3)
    prompts = [IDS[:5], IDS[5:12], IDS[3:4]]
    options = {"max_new_tokens": 12, "temperature": 0.9, "top_k": 40}
    got = [[], [], []]
    for index, token in decoder.generate_batch(prompts, seed=5, **options):
        got[index].append(token)
    alone = llm.load(small)
    assert got == [list(alone.generate(ids, seed=5 + index, **options)) for index, ids in enumerate(prompts)]
    stop = got[1][4]
    ended = [token for index, token in decoder.generate_batch(prompts, seed=5, stop=[stop], **options) if index == 1]
    assert ended == got[1][: got[1].index(stop)]
    with pytest.raises(ArgumentValueError, match="num_sequences=3"):
        alone.generate_batch(prompts)


def test_a_draft_is_kept_as_far_as_it_was_accepted(small):
    """Speculative decoding: stage, look, commit a part; the rest leaves no trace."""
    decoder, plain = llm.load(small, window=8), llm.load(small, window=8)
    decoder.prefill(IDS[:9])
    plain.prefill(IDS[:9])
    tried = decoder.stage([40, 41, 42, 43])
    np.testing.assert_array_equal(tried[:2], plain.logits([40, 41]))
    decoder.commit(2)
    decoder.stage([50, 51])
    decoder.abort()
    np.testing.assert_array_equal(decoder.logits([60]), plain.logits([60]))
    decoder.cache.rewind(1)
    plain.cache.rewind(1)
    np.testing.assert_array_equal(decoder.logits([61]), plain.logits([61]))
    with pytest.raises(KVRewindError):
        decoder.cache.rewind(200)


def test_generation_is_greedy_or_drawn_and_stops(small):
    decoder = llm.load(small, weights="float32", kv="float32")
    reference = Llama(read_model(small)[0])
    expected = reference.greedy(IDS[:4], 8)[4:]
    assert list(decoder.generate(IDS[:4], max_new_tokens=8)) == expected
    figures = decoder.figures
    assert (figures.prompt_tokens, figures.new_tokens) == (4, 8)
    assert figures.kv_bytes == decoder.cache.nbytes
    assert "tokens/s" in str(figures)
    end = expected.index(expected[3])
    assert list(decoder.generate(IDS[:4], max_new_tokens=8, stop=[expected[3]])) == expected[:end]
    drawn = [list(decoder.generate(IDS[:4], temperature=1.0, top_k=50, top_p=0.9, seed=s)) for s in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]
    longer = llm.load(small, window=8, max_chunk=4)
    assert len(list(longer.generate(IDS * 5, max_new_tokens=5))) == 5  # a prompt past the window slides through it


def test_a_longer_text_than_twenty_windows_runs_on_its_sinks(small):
    decoder = llm.load(small, window=8, sinks=4, max_chunk=8)
    tokens = list(decoder.generate(IDS[:4], max_new_tokens=200, temperature=0.8, stop=[]))
    assert len(tokens) == 200
    assert decoder.cache.position() == 203
    assert set(range(4)) < set(decoder.cache.positions().tolist())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda d: d.logits([300]), ArgumentValueError, "token id 300 .*300"),
        (lambda d: d.logits([-1]), ArgumentValueError, "token id -1"),
        (lambda d: d.prefill([]), ArgumentValueError, "at least one token"),
        (lambda d: d.prefill([1.5]), ArgumentTypeError, "integers"),
        (lambda d: d.generate([1, 300]), ArgumentValueError, "token id 300"),
        (lambda d: d.generate([1], temperature=-1), ArgumentValueError, "temperature"),
        (lambda d: d.generate([1], top_p=0.0), ArgumentValueError, "top_p"),
        (lambda d: d.stage([1] * 300), ArgumentValueError, "256"),
        (lambda d: d.step({1: 3}), ArgumentValueError, "sequence 1"),
        (lambda d: d.encode("text"), ArgumentValueError, "tokenizer"),
        (lambda d: d.perplexity([1]), ArgumentValueError, "two tokens"),
    ],
)
def test_bad_calls_are_refused_and_leave_the_text_as_it_was(small, call, error, words):
    decoder = llm.load(small)
    with pytest.raises(error, match=words):
        call(decoder)
    assert decoder.cache.position() == 0
    decoder.logits([1])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "int5"}, "weights"),
        ({"weights": "int8", "group_size": 32}, "group_size"),
        ({"weights": "int4", "group_size": 48}, "group_size"),
        ({"weights": "int2", "group_size": 32}, "group_size must be 64 or 128 with weights='int2'"),
        ({"weights": "int8", "group_size": 64}, "group_size is for weights='int4' and 'int2'"),
        ({"kv": "int3"}, "kv"),
        ({"kv": "int3", "memory_budget": 1 << 40}, "kv"),
        ({"window": 0}, "window"),
    ],
)
def test_bad_options_are_refused(small, options, words):
    with pytest.raises(ArgumentValueError, match=words):
        llm.load(small, **options)


def settings_of(decoder, weights="int8"):
    cache = decoder.cache
    return Settings(cache.max_chunk, weights, "int8", cache.window, cache.num_sequences, cache.sinks, 16, None)


def test_a_budget_is_a_cap_that_says_what_needs_how_much(small):
    config = read_model(small)[0].config
    decoder = llm.load(small, weights="int8")
    needs = plan(config, settings_of(decoder), 4096)  # with the smallest blocks
    assert needs["weights"] >= decoder.weight_bytes
    assert needs["KV cache"] >= decoder.cache.nbytes
    total = sum(needs.values())
    llm.load(small, weights="int8", memory_budget=total)
    with pytest.raises(MemoryBudgetError, match=r"weights .* KV cache .* activations .* workspace .* packing"):
        llm.load(small, weights="int8", memory_budget=total - 1)


def test_config_refuses_impossible_models():
    for changes in ({"kv_heads": 3}, {"head_dim": 15}, {"eps": 0.0}, {"layers": 0}, {"rope_base": 1.0}, {"window": 0}):
        with pytest.raises(ArgumentValueError, match="ModelConfig"):
            replace(SMALL, **changes)
    for kind in ({"kind": "llama3"}, {"kind": "linear", "factor": 0.0}, {"kind": "yarn", "beta_fast": 0.5}):
        with pytest.raises(ArgumentValueError, match="RopeScaling"):
            RopeScaling(**{"factor": 2.0, **kind})


# --- tokenizers


# --- a trained model


def test_stories_reproduce_the_manifest(stories, story_ids):
    decoder = stories(weights="float32", kv="float32")
    losses = np.concatenate([decoder.cross_entropies(ids) for ids in story_ids])
    assert losses.size == 16247
    assert np.exp(losses.mean()) == pytest.approx(3.451, abs=0.0005)
    ids = decoder.encode("Once upon a time")
    text = decoder.decode(ids + list(decoder.generate(ids, max_new_tokens=50)))
    assert "there was a little girl named Lily. She loved to play outside in the park." in text
    assert "One day, she saw a big, red ball" in text


def test_stories_tokens_round_trip(stories, test_data):
    decoder = stories()
    text = (test_data / "text" / "tinystories.txt").read_text()[:20000] + " caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    assert decoder.decode(decoder.encode(text)) == text


def test_int8_keeps_stories_within_a_percent_and_k8v4_beats_the_article(stories, story_ids):
    with pytest.warns(UserWarning, match="wrong way round"):
        formats = {kv: stories(weights="int8", kv=kv) for kv in ("int8", "k8v4", "article")}
    rows = {row.name: row for row in evaluate(stories(weights="float32", kv="float32"), formats, story_ids)}
    assert rows["reference"].kl_divergence == 0
    assert rows["int8"].perplexity < 1.01 * rows["reference"].perplexity
    assert rows["int8"].same_top1 > 0.95
    assert rows["k8v4"].perplexity < rows["article"].perplexity
    assert rows["k8v4"].kl_divergence < rows["article"].kl_divergence
    assert rows["k8v4"].kv_bytes <= rows["article"].kv_bytes


def test_perplexity_holds_past_twenty_windows_with_sinks(stories, story_ids):
    """A text far longer than the window: the stream is no worse than computing the window anew."""
    ids = [token for story in story_ids[:10] for token in story][:2000]
    window = 96
    stream = stories(weights="float32", kv="float32", window=window, sinks=4).cross_entropies(ids)
    again = stories(weights="float32", kv="float32")
    at = range(window, len(ids) - 1, 40)
    anew = []
    for end in at:
        again.cache.reset()
        row = again.prefill([*ids[:4], *ids[end - window + 1 : end + 1]]).astype(np.float64)
        anew.append(np.log(np.exp(row - row.max()).sum()) - (row[ids[end + 1]] - row.max()))
    streamed = stream[np.fromiter(at, int)]
    assert np.exp(streamed.mean()) < 1.1 * np.exp(np.mean(anew))


# --- the command line


def test_generate_streams_text_and_ends_with_figures(test_data, capsys):
    folder = test_data / "llm"
    command = ["generate", str(folder / "stories260K.bin"), "--prompt", "Once upon a time", "--max-new-tokens", "20"]
    assert cli.run([*command, "--tokenizer", str(folder / "tok512.bin")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("Once upon a time, there was a little girl")
    assert "first token" in shown.splitlines()[-1]
    assert cli.run(command) == 2
    assert "tokenizer" in capsys.readouterr().err


def test_perplexity_prints_a_table(test_data, capsys):
    folder = test_data / "llm"
    command = ["perplexity", str(folder / "stories260K.bin"), str(test_data / "text" / "tinystories.txt")]
    options = ["--tokenizer", str(folder / "tok512.bin"), "--separator", "<|endoftext|>", "--texts", "3"]
    assert cli.run([*command, *options, "--kv", "int8", "--kv", "k8v4", "--weights", "int8", "--tokens", "128"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[1:4]] == [
        "float32 weights, float32 KV",
        "int8 weights, int8 KV",
        "int8 weights, k8v4 KV",
    ]
    assert "381 predictions" in lines[-1]


def test_config_says_the_same_on_every_machine():
    config = ModelConfig(
        dim=64, hidden=96, layers=1, heads=1, kv_heads=1, head_dim=64, vocab=8, context=8, rope_base=500000.0
    )
    assert config.rope_phases()[0] == 2935890503282001226
    assert config.rope_phases()[31] < config.rope_phases()[0] // 300000
