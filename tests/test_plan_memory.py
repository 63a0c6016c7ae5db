"""Memory plans: sums are what the core really takes, remedies save what they say, and bad arguments are refused."""

import json
import math
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import numpy as np
import pytest

import edgekern as ek
from edgekern import cli, llm, quickstart
from edgekern.cli import base
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, MemoryBudgetError
from edgekern.llm.packing import KINDS

from llm_files import SMALL, random_tensors, write_gguf, write_huggingface, write_llama2c
from sized_models import quantized_cnn

LLAMA_7B = {"layers": 32, "heads": 32, "dim": 4096, "hidden": 11008, "vocab": 32000, "context": 4096}
TINY = {"layers": 2, "heads": 4, "kv_heads": 2, "dim": 64, "hidden": 96, "vocab": 100, "context": 256}


def shapes_of(config):
    names = ("layers", "heads", "kv_heads", "head_dim", "hidden", "dim", "vocab", "context")
    return {name: getattr(config, name) for name in names}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_llama2c(tmp_path_factory.mktemp("plan") / "small.bin", SMALL, random_tensors(SMALL))


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    path = tmp_path_factory.mktemp("plan") / "net.ekm"
    ek.compile(quantized_cnn(), batch=(1, 3)).save(path)
    return path


def beside_panels(config, kind):
    """Norms, and of int8 two numbers a column of whole panels."""
    up = [config.q_width + 2 * config.kv_width, config.dim, 2 * config.hidden, config.dim]
    columns = sum(-(-rows // 64) * 64 for rows in [*up * config.layers, config.vocab])
    return (2 * config.layers + 1) * config.dim * 4 + (columns * 8 if kind == "int8" else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kv", ["float32", "float16", "int8", "k8v4", "int4"])
@pytest.mark.parametrize(("context", "batch", "chunk"), [(40, 1, 8), (256, 3, 64)])
def test_sums_are_what_a_decoder_takes(small, kind, kv, context, batch, chunk):
    given = {"weights": kind, "kv": kv, "max_chunk": chunk}
    decoder = llm.load(small, window=context, num_sequences=batch, **given)
    plan = ek.plan_memory(small, context=context, batch=batch, **given)
    assert plan.kv_bytes == decoder.cache.nbytes
    assert plan.activation_bytes == -(-decoder._core.work_bytes // 64) * 64
    assert plan.weight_bytes == decoder.weight_bytes + beside_panels(decoder.config, kind)
    assert plan.mapped_bytes == 0
    shapes = {**shapes_of(SMALL), "context": context}
    assert replace(ek.plan_memory(**shapes, batch=batch, **given), model=plan.model) == plan


@pytest.mark.parametrize(("kind", "group"), [("int8", None), ("int4", 32), ("int4", 128), ("int2", 64)])
def test_packed_files_are_read_where_they_are_mapped(small, tmp_path, kind, group):
    file = tmp_path / "small.ekllm"
    llm.quantize(small, file, weights=kind, group_size=group)
    plan, decoder = ek.plan_memory(file), llm.load(file)
    assert plan.mapped_bytes == decoder.weight_bytes
    assert plan.weight_bytes == ek.plan_memory(small, weights=kind, group_size=group).weight_bytes
    assert plan.loading_bytes == 0
    assert plan.kv_bytes == decoder.cache.nbytes
    llm.load(file, memory_budget=plan.owned_bytes)
    with pytest.raises(MemoryBudgetError):
        llm.load(file, memory_budget=plan.owned_bytes - 1)


def test_mapped_pages_count_against_the_device(small, tmp_path):
    file = tmp_path / "small.ekllm"
    llm.quantize(small, file, weights="int8")
    total = ek.plan_memory(file).total_bytes
    assert ek.plan_memory(file, device_bytes=total).fits
    short = ek.plan_memory(file, device_bytes=total - 1)
    assert (short.fits, short.total_bytes, short.spare_bytes) == (False, total, -1)
    assert short.remedies[0].fits
    assert not any("weights" in remedy.change for remedy in short.remedies)


@pytest.mark.parametrize("write", [write_gguf, write_huggingface])
def test_files_of_all_kinds_have_the_plan_of_their_shapes(tmp_path, write):
    path = write(tmp_path / "model.gguf", SMALL, random_tensors(SMALL))
    plan = ek.plan_memory(path, context=64)
    assert str(path) in plan.model
    assert replace(plan, model="") == replace(ek.plan_memory(**{**shapes_of(SMALL), "context": 64}), model="")


def test_loading_goes_by_the_same_sums(small):
    """A device of what a plan takes is enough for memory_budget, and one byte less is not."""
    loose = ek.plan_memory(small)
    with pytest.raises(MemoryBudgetError):
        llm.load(small, memory_budget=ek.plan_memory(small, device_bytes=1_000_000).total_bytes - 1)
    llm.load(small, memory_budget=ek.plan_memory(small, device_bytes=1_000_000).total_bytes)
    assert loose.fits
    assert loose.owned_bytes == loose.total_bytes


@pytest.mark.parametrize(("arenas", "threads"), [(1, 1), (1, 2), (3, 1)])
def test_sums_are_what_a_session_takes(program, arenas, threads):
    plan = ek.plan_memory(program, arenas=arenas, num_threads=threads)
    session = ek.InferenceSession(program, arenas=arenas, num_threads=threads)
    assert plan.activation_bytes + plan.workspace_bytes == session.arena_bytes
    assert plan.activation_bytes == arenas * max(part.index.arena_bytes for part in session.program.all)
    assert plan.weight_bytes == plan.mapped_bytes == program.stat().st_size
    assert plan.workspace_bytes >= 0
    assert plan.kv_bytes == 0


def test_fewer_arenas_are_a_programs_remedy(program):
    four = ek.plan_memory(program, arenas=4, num_threads=1)
    one = ek.plan_memory(program, num_threads=1)
    short = ek.plan_memory(program, arenas=4, num_threads=1, device_bytes=four.total_bytes - 1)
    assert next(r.change for r in short.remedies if r.fits) == "arenas=1"
    assert short.remedies[0].total_bytes == one.total_bytes
    with pytest.raises(MemoryBudgetError, match="plan_memory: device_bytes must hold the least"):
        ek.plan_memory(program, arenas=4, device_bytes=one.total_bytes - 1)


def arguments_of(change):
    pairs = (word.split("=") for word in change.split(" with "))
    return {name: value.strip("'") if "'" in value else int(value) for name, value in pairs}


@pytest.mark.parametrize("share", [0.95, 0.7, 0.5])
@pytest.mark.parametrize("given", [{}, {"weights": "float32", "kv": "float16"}, {"weights": "int4", "batch": 8}])
def test_remedies_save_what_they_say(share, given):
    total = ek.plan_memory(**LLAMA_7B, **given, device_bytes="1T").total_bytes
    plan = ek.plan_memory(**LLAMA_7B, **given, device_bytes=int(share * total))
    assert not plan.fits
    assert plan.remedies
    assert any(remedy.fits for remedy in plan.remedies)
    assert [r.fits for r in plan.remedies] == sorted((r.fits for r in plan.remedies), reverse=True)
    rest = [r.saves_bytes for r in plan.remedies if not r.fits]
    assert rest == sorted(rest, reverse=True)
    for remedy in plan.remedies:
        shapes = {**LLAMA_7B, **given, **arguments_of(remedy.change)}
        changed = ek.plan_memory(**shapes, device_bytes=plan.device_bytes)
        assert changed.fits == remedy.fits
        assert plan.total_bytes - remedy.total_bytes == remedy.saves_bytes > 0
        if not changed.fits:
            assert changed.total_bytes == remedy.total_bytes
        else:  # which may take more than the least while loading, where there is room
            assert changed.total_bytes - changed.loading_bytes <= remedy.total_bytes <= changed.total_bytes


def test_the_articles_case():
    """7B weights in 8 bits, 4096 tokens, 8 GB: 2.55 GB by the article, and more than the device has by the sums."""
    plan = ek.plan_memory(**LLAMA_7B, kv="float16", device_bytes="8GB", reserved_bytes="1GB")
    matrices = 32 * (4 * 4096**2 + 3 * 4096 * 11008) + 32000 * 4096
    assert matrices <= plan.weight_bytes <= 1.04 * matrices
    keys_and_values = 2 * 32 * 4096 * 4096 * 2
    assert keys_and_values <= plan.kv_bytes <= 1.1 * keys_and_values
    assert plan.total_bytes > 9e9
    assert not plan.fits
    assert plan.remedies[0].change == "weights='int4'"
    assert plan.remedies[0].fits


def test_the_documented_plan_is_what_is_printed():
    text = (Path(__file__).parents[1] / "docs" / "plan-memory.md").read_text()
    assert str(ek.plan_memory(**LLAMA_7B, kv="float16", device_bytes="8GB", reserved_bytes="1GB")) in text
    storages = [("int8", None, "float16"), ("int8", None, "int8"), ("int4", 32, "int8"), ("int4", 128, "k8v4")]
    plans = [
        ek.plan_memory(**LLAMA_7B, weights=weights, group_size=group, kv=kv, device_bytes="8GB", reserved_bytes="1GB")
        for weights, group, kv in storages
    ]
    assert "| in all | 2.55 | " + " | ".join(f"{plan.total_bytes / 1e9:.2f}" for plan in plans) + " |" in text
    assert [plan.fits for plan in plans] == [False, False, True, True]
    least = ek.plan_memory(**{**LLAMA_7B, "context": 32}, kv="int4", max_chunk=16, device_bytes="7GB")
    assert not least.fits
    assert f"{least.total_bytes / 1e9:.2f} GB." in text


@pytest.mark.parametrize(("name", "value"), [("context", 8192), ("batch", 2), ("layers", 40), ("kv", "float32")])
def test_every_argument_counts(name, value):
    """The article's planner took three and read none."""
    plan = ek.plan_memory(**TINY)
    assert ek.plan_memory(**{**TINY, name: value}).total_bytes > plan.total_bytes


def test_int4_keys_are_no_remedy_where_they_cannot_be():
    """They are rotated, which wants a head_dim that is a power of two."""
    shapes = {**TINY, "dim": 320, "head_dim": 80}
    total = ek.plan_memory(**shapes).total_bytes
    plan = ek.plan_memory(**shapes, device_bytes=total // 2)
    assert not any("kv='int4'" in remedy.change for remedy in plan.remedies)
    with pytest.raises(ArgumentValueError, match="plan_memory: kv must not be 'int4' unless head_dim is a power"):
        ek.plan_memory(**shapes, kv="int4")


def test_a_plan_is_a_value():
    plan, same = ek.plan_memory(**TINY, device_bytes="1G"), ek.plan_memory(**TINY, device_bytes=2**30)
    assert plan == same
    assert hash(plan) == hash(same)
    assert plan != ek.plan_memory(**TINY, device_bytes="2G")
    assert eval(repr(plan), {"MemoryPlan": ek.MemoryPlan}) == plan
    with pytest.raises(FrozenInstanceError):
        plan.kv_bytes = 0
    told = json.loads(plan.to_json())
    assert told == plan.to_dict()
    assert told["total_bytes"] == sum(
        told[name] for name in ("weight_bytes", "kv_bytes", "activation_bytes", "workspace_bytes", "loading_bytes")
    )
    assert f"{plan.total_bytes:,} bytes" in str(plan)
    assert str(plan).endswith("\nfits")


COUNTS = ("layers", "heads", "kv_heads", "head_dim", "hidden", "dim", "vocab", "context", "batch", "max_chunk")


@pytest.mark.parametrize("name", [*COUNTS, "sinks", "rewind", "group_size"])
@pytest.mark.parametrize("value", [True, np.True_, 1.5, math.nan, "4", [4]])
def test_counts_of_other_types_are_refused(name, value):
    given = {**TINY, "weights": "int4", name: value}
    with pytest.raises(
        ArgumentTypeError, match=f"^plan_memory: {name} must be an integer, got .*; give a whole number"
    ):
        ek.plan_memory(**given)


@pytest.mark.parametrize("name", [*COUNTS, "sinks", "rewind"])
@pytest.mark.parametrize("value", [-1, 2**31, 10**30])
def test_counts_out_of_range_are_refused(name, value):
    with pytest.raises(ArgumentValueError, match=rf"^plan_memory: {name} must lie in \[\d+, \d+\], got {value}; "):
        ek.plan_memory(**{**TINY, name: value})


@pytest.mark.parametrize("name", COUNTS)
def test_none_of_a_thing_is_refused(name):
    with pytest.raises(ArgumentValueError, match=rf"^plan_memory: {name} must lie in \[1, \d+\], got 0; "):
        ek.plan_memory(**{**TINY, name: 0})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "layers, heads, hidden, dim, vocab, context must be given with shapes alone; give them, or"),
        ({**TINY, "vocab": None}, "vocab must be given"),
        ({**TINY, "dim": 66}, "dim must be a multiple of heads, got dim=66 and heads=4; give head_dim"),
        ({**TINY, "kv_heads": 3}, "heads must be a multiple of kv_heads, 3, got 4; "),
        ({**TINY, "head_dim": 12}, "head_dim must be a multiple of 8, at most 512, got 12; "),
        ({**TINY, "weights": "int3"}, "weights must be one of float32, int8, int4, int2, got 'int3'; "),
        ({**TINY, "weights": "int4", "group_size": 48}, "group_size must be 32, 64, 128 with weights='int4', got 48"),
        ({**TINY, "group_size": 32}, "group_size must be left out with weights='int8', got 32"),
        ({**TINY, "kv": "int3"}, "kv must be float32, .*, got 'int3'; "),
        ({**TINY, "arenas": 2}, "arenas is for a compiled program; "),
        ({**TINY, "device_bytes": 0}, "device_bytes must be at least one byte"),
        ({**TINY, "device_bytes": True}, "device_bytes must be at least one byte"),
        ({**TINY, "device_bytes": 10**30}, r"device_bytes must be at most 2\^62, got 10+; "),
        ({**TINY, "device_bytes": "much"}, "device_bytes must be at least one byte"),
        ({**TINY, "device_bytes": 5000, "reserved_bytes": 5000}, "reserved_bytes must be below device_bytes, 5000, "),
        ({**TINY, "reserved_bytes": -1}, "reserved_bytes must be at least one byte"),
        ({**TINY, "reserved_bytes": False}, "reserved_bytes must be at least one byte"),
    ],
)
def test_arguments_that_cannot_be_are_refused(given, message):
    with pytest.raises(ArgumentValueError, match=f"^plan_memory: {message}"):
        ek.plan_memory(**given)


@pytest.mark.parametrize("name", ["device_bytes", "reserved_bytes"])
@pytest.mark.parametrize("value", [math.nan, 1.5, b"1G"])
def test_sizes_of_other_types_are_refused(name, value):
    with pytest.raises(ArgumentTypeError, match=f"^plan_memory: {name} must be a number of bytes or a size"):
        ek.plan_memory(**TINY, **{name: value})


def test_arguments_of_other_models_are_refused(small, program, tmp_path):
    for path, name, value in [
        *((small, name, 2) for name in ("layers", "head_dim", "vocab", "arenas", "num_threads")),
        *((program, name, 2) for name in ("layers", "context", "batch", "max_chunk")),
        (program, "weights", "int4"),
        (program, "kv", "int4"),
    ]:
        with pytest.raises(ArgumentValueError, match=f"^plan_memory: {name} (contradicts path|is for a)"):
            ek.plan_memory(path, **{name: value})
    packed = tmp_path / "packed.ekllm"
    llm.quantize(small, packed, weights="int4")
    for name, value in (("weights", "int8"), ("group_size", 64)):
        with pytest.raises(
            ArgumentValueError, match=rf"^plan_memory: {name} must be that of .*, int4 g32, got .*{value}"
        ):
            ek.plan_memory(packed, **{name: value})
    assert ek.plan_memory(packed, group_size=32) == ek.plan_memory(packed, weights="int4") == ek.plan_memory(packed)
    with pytest.raises(ArgumentTypeError, match="plan_memory: path must be a path"):
        ek.plan_memory(7)
    with pytest.raises(FileNotFoundError):
        ek.plan_memory(tmp_path / "absent.gguf")


def test_files_that_hold_no_model_are_named(tmp_path):
    onnx_file, noise = quickstart.MODEL, tmp_path / "noise.gguf"
    noise.write_bytes(b"noise" * 100)
    with pytest.raises(ArtifactError, match=r"^plan_memory: .* is not a GGUF file, .*; it is an ONNX model"):
        ek.plan_memory(onnx_file)
    with pytest.raises(ArtifactError, match=r"^plan_memory: .*noise\.gguf is no GGUF file"):
        ek.plan_memory(noise)


def test_a_device_below_the_floor_is_refused():
    with pytest.raises(MemoryBudgetError) as refused:
        ek.plan_memory(**LLAMA_7B, device_bytes="2GB", reserved_bytes="1GB")
    words = str(refused.value)
    assert words.startswith("plan_memory: device_bytes must hold the least that this model takes, ")
    assert "got 2,000,000,000; take a larger device or a smaller model" in words
    floor = int(words.split("takes, ")[1].split(" bytes")[0].replace(",", ""))
    change = words.split("bytes (")[1].split(")")[0]
    held = ek.plan_memory(**{**LLAMA_7B, **arguments_of(change)}, device_bytes=floor + 10**9, reserved_bytes="1GB")
    assert held.fits
    assert held.total_bytes == floor


@pytest.mark.parametrize("run", [cli.run, base.run])
def test_the_command_line_plans(small, program, capsys, run):
    shapes = [f"--{name.replace('_', '-')}={value}" for name, value in LLAMA_7B.items()]
    assert run(["plan", *shapes, "--device", "16GB", "--reserved", "1GB"]) == 0
    assert capsys.readouterr().out.endswith("\nfits\n")
    assert run(["plan", *shapes, "--kv", "float16", "--device", "8GB", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told == ek.plan_memory(**LLAMA_7B, kv="float16", device_bytes="8GB").to_dict()
    assert run(["plan", str(small), "--weights", "int4", "--context", "64"]) == 0
    assert run(["plan", str(program), "--arenas", "2", "--threads", "1"]) == 0
    assert "arenas=2, num_threads=1" in capsys.readouterr().out


def test_the_command_line_refuses(small, capsys):
    assert cli.run(["plan", str(small), "--layers", "3"]) == 2
    assert "plan_memory: layers contradicts path" in capsys.readouterr().err
    assert cli.run(["plan"]) == 2
    assert cli.run(["plan", str(small), "--device", "1kB"]) == 2
    assert "must hold the least" in capsys.readouterr().err
