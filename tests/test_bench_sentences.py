"""The bench of sentences: ranks, pairs, and MiniLM by the recipe "w8a8-dynamic" where its weights are."""

import os
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="needs edgekern[toolkit]")

from bench import bench_sentences


def test_equal_numbers_share_their_rank() -> None:
    assert bench_sentences.spearman(np.array([1, 2, 2, 9]), np.array([10, 20, 20, 21])) == pytest.approx(1)
    assert bench_sentences.spearman(np.array([1, 2, 3, 4]), np.array([4, 3, 2, 1])) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 and 2, 1, 3.5, 3.5.
    assert bench_sentences.spearman(np.array([0, 5, 5, 7]), np.array([2, 1, 8, 8])) == pytest.approx(0.5)


def test_the_development_set_has_1500_rated_pairs(test_data: Path) -> None:
    pairs, ratings = bench_sentences.load_pairs()
    assert len(pairs) == len(ratings) == 1500
    assert (ratings.min(), ratings.max()) == (0, 5)
    assert pairs[0] == ("A man with a hard hat is dancing.", "A man wearing a hard hat is dancing.")


def test_a_sentence_is_the_mean_of_its_words_whatever_fills_it_up() -> None:
    class Words:
        """Words are numbers."""

        @staticmethod
        def encode(sentence: str) -> object:
            return type("Encoding", (), {"ids": [int(word) for word in sentence.split()]})

    lengths = []

    def runs(length: int) -> bench_sentences.Run:
        lengths.append(length)
        return lambda feeds: np.stack([feeds["input_ids"], 100 * (1 - feeds["attention_mask"])], axis=-1)

    pairs = [("1 2", "3"), ("4", " ".join(["5"] * 20))]
    np.testing.assert_allclose(bench_sentences.similarities(pairs, Words(), runs), 1)  # all are (mean, 0)
    assert lengths == [16, 32]


def test_minilm_keeps_its_ranks_on_8_bits(test_data: Path) -> None:
    folder = os.environ.get("EDGEKERN_TEST_MINILM")
    if not folder:
        pytest.skip("EDGEKERN_TEST_MINILM names no folder with MiniLM, its weights and its tokenizer")
    rows = bench_sentences.measure(Path(folder), 100)
    drops = {str(row["engine"]): float(str(row["drop"])) for row in rows}
    assert abs(drops["edgekern float32"]) < 1e-4
    assert drops["edgekern w8a8-dynamic"] < bench_sentences.ALLOWED
