"""What ends a text: token ids, and strings in the text that the tokens make."""

import numpy as np
import pytest

from edgekern import llm
from edgekern.errors import ArgumentTypeError, ArgumentValueError
from edgekern.llm.stops import Stops

from llm_files import SMALL, random_tensors, write_llama2c


class Letters:
    """A token for each of a few pieces."""

    vocab, bos, stops = SMALL.vocab, None, frozenset((0,))
    pieces = ("", "a", "b", "c", "ab", " dog.", ".", "x", "bc", "\N{REPLACEMENT CHARACTER}")

    def encode(self, text, *, bos=True):
        return [self.pieces.index(letter) for letter in text]

    def decode(self, ids):
        return "".join(self.pieces[token % len(self.pieces)] for token in ids)


def given_out(stop, tokens):
    watch, out = Stops.of(stop, Letters()).watch([1]), []
    for token in tokens:
        given, ended = watch.push(token)
        out.append(given)
        if ended:
            return out
    return [*out, watch.rest()]


@pytest.mark.parametrize(
    ("stop", "tokens", "expected"),
    [
        (None, [1, 2, 0, 3], [[1], [2], []]),
        ([2], [1, 2, 3], [[1], []]),
        (2, [1, 2, 3], [[1], []]),
        ((), [1, 0, 2], [[1], [0], [2], []]),
        (np.array([2]), [1, 2, 3], [[1], []]),
        (["."], [1, 6, 2], [[1], []]),
        (".", [1, 6, 2], [[1], []]),
        ([".", 3], [1, 3], [[1], []]),
        (["."], [1, 5, 2], [[1], []]),  # it begins within a token
        (["abc"], [7, 1, 2, 3, 7], [[7], [], [], []]),  # held back until it is whole
        (["abc"], [7, 1, 2, 7], [[7], [], [], [1, 2, 7], []]),  # and given out when it was another
        (["abc"], [1, 1, 2, 3], [[], [1], [], []]),
        (["abc"], [4, 4, 3], [[], [4], []]),
        (["abc", "b"], [1, 2, 3], [[], [1]]),
        (["abc"], [1, 2], [[], [], [1, 2]]),  # the text was over first
        (["abc", 7], [1, 2, 7], [[], [], [1, 2]]),
        (["cab"], [8, 4, 7], [[], []]),  # bc, ab
    ],
)
def test_a_text_ends_before_the_first_stop(stop, tokens, expected):
    assert given_out(stop, tokens) == expected


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return write_llama2c(tmp_path_factory.mktemp("stops") / "small.bin", SMALL, random_tensors(SMALL))


def test_generate_ends_at_a_string(path):
    decoder = llm.load(path, tokenizer=Letters(), num_sequences=2)
    free = list(decoder.generate([1, 2], max_new_tokens=12, stop=[]))
    text = Letters().decode(free)
    stop = text[5:7]
    ended = list(decoder.generate([1, 2], max_new_tokens=12, stop=[stop]))
    assert free[: len(ended)] == ended
    assert stop not in Letters().decode(ended)
    assert decoder.figures.new_tokens < 12
    batch = list(decoder.generate_batch([[1, 2], [3]], max_new_tokens=12, stop=[stop]))
    assert [token for index, token in batch if index == 0] == ended
    assert [token for index, token in batch if index == 1] == list(decoder.generate([3], max_new_tokens=12, stop=stop))
    nothing = list(decoder.generate([1, 2], max_new_tokens=12, stop=["never in it"]))
    assert nothing == free


@pytest.mark.parametrize(
    ("stop", "error", "words"),
    [
        (["."], ArgumentValueError, r"generate: stop has the string '\.', but the model has no tokenizer"),
        ([""], ArgumentValueError, "generate: stop has an empty string"),
        (b"a", ArgumentTypeError, "generate: stop must hold token ids and strings, such as .*, got bytes"),
        ({"a": 1}, ArgumentTypeError, "generate: stop must hold token ids and strings"),
        ([1.5], ArgumentTypeError, "generate: a token of stop must be an integer, got float 1.5"),
        ([True], ArgumentTypeError, "generate: stop must hold token ids and strings, got True"),
        (np.ones(2), ArgumentTypeError, "generate: a token of stop must be an integer"),
        (object(), ArgumentTypeError, "generate: stop must hold token ids and strings"),
    ],
)
def test_stops_that_are_none_are_refused_at_the_call(path, stop, error, words):
    decoder = llm.load(path)
    for call in (decoder.generate, lambda ids, **options: decoder.generate_batch([ids], **options)):
        with pytest.raises(error, match=words):
            call([1], stop=stop)
    assert decoder.cache.position() == 0
