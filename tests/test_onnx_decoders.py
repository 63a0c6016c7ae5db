"""A decoder as ONNX, its cache among inputs and outputs: a step of fixed lengths runs, one of free ones is refused."""

import numpy as np
import pytest

import edgekern as ek
from edgekern.errors import CompileError
from test_dynamic_rows import DYNAMIC
from test_float_nets import kinds
from transformers import decoder

from graphs import onnxruntime_session, results_everywhere

PAST = 7


def feeds(past=PAST, real=PAST):
    """One new word behind so many, of which the last ``real`` are words."""
    rng = np.random.default_rng(3)
    kept = rng.normal(size=(2, 1, 2, PAST, 8)).astype(np.float32)[:, :, :, PAST - past :]
    mask = np.arange(past + 1) >= past - real
    return {
        "input_ids": np.array([[4]]),
        "past_key_values.0.key": kept[0],
        "past_key_values.0.value": kept[1],
        "attention_mask": mask[None].astype(np.int64),
    }


@pytest.mark.parametrize("shapes", [{"sequence": 1}, {"sequence": 1, "total": PAST + 1}])
def test_lengths_that_are_left_free_are_refused_with_the_way_to_generate_text(shapes):
    with pytest.raises(CompileError, match=r"'past_key_values.0.key' has a free dimension 2.*edgekern\.llm\.load"):
        ek.compile(decoder(), shapes=shapes)


def test_a_model_without_a_cache_is_not_taken_for_a_decoder():
    model = decoder()
    for value in model.graph.input[1:3]:
        value.name = value.name.replace("past_key_values", "memory")
    for node in model.graph.node:
        node.input[:] = [name.replace("past_key_values", "memory") for name in node.input]
    with pytest.raises(CompileError, match=r"Free dimensions$"):
        ek.compile(model, shapes={"sequence": 1})


@pytest.mark.parametrize("recipe", ["float32", "w8a8-dynamic"])
def test_one_step_of_fixed_lengths_runs_on_kernels(recipe):
    model = decoder()
    source = model if recipe == "float32" else ek.quantize(model, None, DYNAMIC)
    sizes = {"sequence": 1, "past": PAST, "total": PAST + 1}
    program = ek.compile(source, shapes=sizes, allow_host=False)
    assert kinds(program).count("ATTENTION_F32") == 1
    expected = onnxruntime_session(model, optimized=False).run(None, feeds())
    tolerance = 1e-5 if recipe == "float32" else 0.05
    for got, want in zip(results_everywhere(program, feeds()), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=tolerance * np.abs(want).max())


def test_a_cache_that_is_not_full_is_hidden_by_its_mask():
    """How a fixed length serves any shorter one: what is not there yet lies in front."""
    model = decoder()
    program = ek.compile(model, shapes={"sequence": 1, "past": PAST, "total": PAST + 1}, allow_host=False)
    [logits, *_] = results_everywhere(program, feeds(real=3))
    [want, *_] = onnxruntime_session(model, optimized=False).run(None, feeds(past=3, real=3))
    np.testing.assert_allclose(logits, want, rtol=1e-4, atol=1e-5)
