"""Tokenizers: merges, streams of text, and what GGUF files and folders bring."""

from dataclasses import replace

import pytest

from edgekern import llm
from edgekern.llm.spm import SpmTokenizer

from llm_files import SMALL, random_tensors, write_gguf, write_huggingface


def _bytes_and(*pieces):
    table = [b"<unk>", b"<s>", b"</s>", *(f"<0x{value:02X}>".encode() for value in range(256)), *pieces]
    scores = [0.0] * 259 + [-float(index) for index in range(len(pieces))]
    return SpmTokenizer(table, scores, bos=1, stops=frozenset((2,)), hidden=frozenset((0, 1, 2)))


def test_merges_take_the_best_score_and_characters_fall_back_to_bytes():
    tokenizer = _bytes_and(b"ab", b"bc", b" ", b"a", b"b", b"c", b" ab")
    assert tokenizer.encode("abc") == [1, 265, 264]  # ab before bc, then its space; c is left alone
    ids = tokenizer.encode("a\N{EURO SIGN}b")
    assert [token - 3 for token in ids[3:6]] == list("\N{EURO SIGN}".encode())
    assert tokenizer.decode(ids) == "a\N{EURO SIGN}b"
    assert tokenizer.encode("") == [1]


def test_a_stream_waits_for_the_last_byte_of_a_character():
    tokenizer = _bytes_and(b" ", b"a")
    stream = llm.TextStream(tokenizer, tokenizer.encode("a"))
    pushed = [stream.push(byte + 3) for byte in "a\N{EURO SIGN}!".encode()]
    assert pushed == ["a", "", "", "\N{EURO SIGN}", "!"]
    assert stream.push(0xE2 + 3) == ""
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"


def test_a_gguf_file_brings_its_vocabulary(tmp_path):
    config = replace(SMALL, vocab=262)
    pieces = [b"<unk>", b"<s>", b"</s>", *(f"<0x{value:02X}>".encode() for value in range(256)), b"\xe2\x96\x81", b"a"]
    pieces.append(b"\xe2\x96\x81a")

    def vocabulary(writer):
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores([0.0] * 261 + [1.0])
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 3)
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    path = write_gguf(tmp_path / "x.gguf", config, random_tensors(config), vocabulary=vocabulary)
    decoder = llm.load(path)
    assert decoder.encode("a b") == [1, 261, 259, ord("b") + 3]
    assert decoder.decode(decoder.encode("a b")) == "a b"
    assert decoder.tokenizer.stops == {2}


def test_a_gguf_file_brings_byte_level_merges(tmp_path):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, "he", "llo", "ll", "hello", "<|end|>"]
    config = replace(SMALL, vocab=len(tokens))

    def vocabulary(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(tokens)
        writer.add_token_types([1] * (len(tokens) - 1) + [3])
        writer.add_token_merges(["h e", "l l", "ll o", "he llo"])
        writer.add_eos_token_id(len(tokens) - 1)

    decoder = llm.load(write_gguf(tmp_path / "x.gguf", config, random_tensors(config), vocabulary=vocabulary))
    ids = decoder.encode("hello hello!")
    assert ids.count(tokens.index("hello")) == 2
    assert decoder.decode(ids) == "hello hello!"


def test_a_folder_brings_its_tokenizer_json(tmp_path):
    from tokenizers import Tokenizer, models

    folder = write_huggingface(tmp_path / "hf", SMALL, random_tensors(SMALL), eos_token_id=7)
    words = Tokenizer(models.WordLevel({"once": 0, "[UNK]": 1}, unk_token="[UNK]"))
    words.save(str(folder / "tokenizer.json"))
    decoder = llm.load(folder)
    assert decoder.encode("once") == [0]
    assert decoder.tokenizer.stops == {7}
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match="tokenizer"):
        llm.load(folder)
