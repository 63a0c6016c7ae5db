"""A memory budget: the plan is above what loading really takes, and the advice fits when it is followed."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gguf
import numpy as np
import pytest

from edgekern import cli, llm
from edgekern._arguments import byte_count
from edgekern.errors import ArgumentTypeError, ArgumentValueError, MemoryBudgetError

from llm_files import SMALL, random_tensors, write_gguf, write_huggingface, write_llama2c

MIDDLE = replace(SMALL, dim=512, hidden=1408, layers=2, heads=8, kv_heads=4, head_dim=64, vocab=8000)

# What loading takes is what the process grows by once the file's pages are there: those can be dropped and count for
# nothing. A first load takes what only the first one takes, such as threads.
CHILD = """
import gc, sys
from edgekern.llm import budget, loading

def status(key):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

first, path, *kinds = sys.argv[1:]
seen = []
cache_spec = loading.cache_spec
loading.cache_spec = lambda config, settings: (seen.append(settings), cache_spec(config, settings))[1]
loading.load(first).prefill([1, 2])
model = loading.read_model(path)
for stored in model[0].tensors.values():
    stored.data.max()
loading.read_model = lambda _: model
for kind in kinds:
    gc.collect()
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the high-water mark begins anew
    before = status("VmRSS")
    decoder = loading.load(path, weights=kind, max_chunk=64)
    decoder.prefill(list(range(1, 65)))
    grown = status("VmHWM") - before
    del decoder
    print(grown, sum(budget.plan(model[0].config, seen[-1]).values()))
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_llama2c(tmp_path_factory.mktemp("budget") / "small.bin", SMALL, random_tensors(SMALL))


def middle(kind, folder):
    tensors = random_tensors(MIDDLE)
    if kind == "hf":
        return write_huggingface(folder / "hf", MIDDLE, {k: v.astype(np.float16) for k, v in tensors.items()})
    quantized = gguf.GGMLQuantizationType[kind.upper()] if kind != "f32" else None
    return write_gguf(folder / "middle.gguf", MIDDLE, tensors, quantized=quantized)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc/self/clear_refs")
@pytest.mark.parametrize("kind", ["small", "f32", "q4_0", "q8_0", "hf"])
def test_loading_takes_no_more_than_was_planned(small, tmp_path, kind):
    """The plan was 25 MB for a model of 1.4 MB, and 1 MB too little for one of 28 MB."""
    path = small if kind == "small" else middle(kind, tmp_path)
    command = [sys.executable, "-c", CHILD, str(small), str(path), "float32", "int8", "int4", "int2"]
    child = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert child.returncode == 0, child.stderr
    figures = [[int(word) for word in line.split()] for line in child.stdout.splitlines()]
    assert len(figures) == 4
    for grown, planned in figures:
        assert grown <= planned <= 2 * grown + (12 << 20), figures


@pytest.mark.parametrize("kind", llm.packing.KINDS)
def test_results_do_not_depend_on_the_budget(small, kind):
    """A tight one packs few rows at a time."""
    with pytest.raises(MemoryBudgetError) as refused:
        llm.load(small, weights=kind, memory_budget=1)
    needed = float(re.search(r"([\d.]+) MB in all", str(refused.value))[1])
    tight = llm.load(small, weights=kind, memory_budget=f"{needed}MB")
    np.testing.assert_array_equal(tight.logits([1, 2, 3]), llm.load(small, weights=kind).logits([1, 2, 3]))


def test_five_megabytes_hold_a_model_of_one(test_data):
    decoder = llm.load(test_data / "llm" / "stories260K.bin", memory_budget="5MB")
    assert decoder.logits([1]).shape == (1, 512)


@pytest.mark.parametrize("share", [0.95, 0.8, 0.6, 0.4])
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_the_advice_fits_when_it_is_followed(tmp_path, share, kind):
    path = middle("q8_0", tmp_path)
    given = {"weights": kind, "window": 2048, "num_sequences": 2}

    def refusal(budget, **changed):
        with pytest.raises(MemoryBudgetError) as refused:
            llm.load(path, memory_budget=budget, **{**given, **changed})
        return str(refused.value)

    total = float(re.search(r"([\d.]+) MB in all", refusal(1))[1])
    words = refusal(f"{share * total:.2f}MB")
    advice = re.search(r"; (?:nothing fits: the least, )?(.+?),? takes ([\d.]+) MB$", words)
    assert advice, words
    changes = dict(change.split("=") for change in advice[1].split(" with "))
    changed = {name: value.strip("'") if "'" in value else int(value) for name, value in changes.items()}
    if "nothing fits" not in words:
        assert float(advice[2]) <= share * total
    decoder = llm.load(path, memory_budget=f"{advice[2]}MB", **{**given, **changed})
    assert decoder.logits([1]).shape == (1, MIDDLE.vocab)


def test_where_nothing_fits_the_least_is_named(small):
    with pytest.raises(MemoryBudgetError, match=r"; nothing fits: the least, .*weights='int4'.*, takes \d.* MB$"):
        llm.load(small, memory_budget=1000)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("1G", 2**30),
        ("512M", 512 * 2**20),
        ("300MB", 300 * 10**6),
        ("1GiB", 2**30),
        ("1 gib", 2**30),
        ("1.5k", 1536),
        ("1.5 kB", 1500),
        ("2T", 2**41),
        (".5K", 512),
        ("4096", 4096),
        ("4096B", 4096),
        (4096, 4096),
        (np.int64(7), 7),
        ("9" * 30, int("9" * 30)),
    ],
)
def test_sizes_are_read_as_the_gnu_tools_read_them(text, count):
    assert byte_count("f", "size", text) == count


@pytest.mark.parametrize(
    "text", ["", "G", "1X", "1GG", "-1", "1e3", "1Gi", "0", "0.1", "1 G B", "१", "1.2.3", 0, -5, True]
)
def test_sizes_that_are_none_are_refused(text):
    with pytest.raises(ArgumentValueError, match="f: size must be at least one byte, as a number or a size"):
        byte_count("f", "size", text)


def test_sizes_of_other_types_are_refused():
    for value in (1.5, None, b"1G", [1]):
        with pytest.raises(ArgumentTypeError, match="f: size must be a number of bytes or a size such as '1G', got"):
            byte_count("f", "size", value)


def test_the_command_line_takes_sizes(test_data, capsys):
    folder = test_data / "llm"
    command = ["generate", str(folder / "stories260K.bin"), "--prompt", "Once", "--max-new-tokens", "2"]
    command += ["--tokenizer", str(folder / "tok512.bin"), "--memory-budget"]
    assert cli.run([*command, "1G"]) == 0
    capsys.readouterr()
    assert cli.run([*command, "300 kB"]) == 2
    assert "takes" in capsys.readouterr().err
    assert cli.run([*command, "much"]) == 2
    assert "llm.load: memory_budget must be at least one byte" in capsys.readouterr().err
