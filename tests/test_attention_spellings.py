"""Attention is one step however an exporter writes it, in float32 and under the recipe "w8a8-dynamic"."""

import pytest
from onnx import TensorProto

import edgekern as ek
from test_dynamic_rows import DYNAMIC, noise
from test_float_nets import assert_native, feeds_of, kinds
from transformers import (
    SPELLINGS,
    B,
    E,
    N,
    Net,
    by_cosine,
    guarded_against_nan,
    llama_layer,
    mix,
    of_three_axes,
    packed_by_gather,
    packed_by_split,
    projected,
    rotated,
    spelled,
    swin_stage,
    vision_transformer,
)

from graphs import onnxruntime_session, results_everywhere

APART = {"SOFTMAX_F32", "MATMUL_F32"}
# What is moved all the same: what the parts of a packed product are cut from, what a guard reads, what is rotated or
# brought to length 1, and tokens that the model wants first.
MOVED = {packed_by_split: 1, packed_by_gather: 1, guarded_against_nan: 1, rotated: 1, of_three_axes: 2, by_cosine: 2}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_attention_is_one_step_however_it_is_written(spelling):
    model = spelled(spelling)
    feeds = feeds_of(model)
    if "seen" in feeds:
        feeds["seen"][:, :, 2] = False  # and nothing for one row
        feeds["seen"][:, :, 3] = True
    if "hidden" in feeds:
        feeds["hidden"][0] = True
    found = kinds(assert_native(model, feeds=feeds))
    assert found.count("ATTENTION_F32") == 1
    assert not APART & set(found)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_heads_are_read_and_written_where_they_lie(spelling):
    found = kinds(ek.compile(spelled(spelling), allow_host=False))
    assert found.count("TRANSPOSE") + found.count("PERMUTE") == MOVED.get(spelling, 0)


@pytest.mark.parametrize("recipe", ["float32", "w8a8-dynamic"])
@pytest.mark.parametrize(("build", "attentions"), [(vision_transformer, 2), (swin_stage, 2)])
def test_vision_transformers_need_no_host(build, attentions, recipe):
    model = build()
    if recipe == "float32":
        found = kinds(assert_native(model))
        assert "GEMM_F32" in found
    else:
        program = ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False)
        feeds = feeds_of(model)
        [want] = onnxruntime_session(model, optimized=False).run(None, feeds)
        [got] = results_everywhere(program, feeds)
        assert noise(got, want) > 28
        found = kinds(program)
        assert not {"GEMM_F32", "CONV_F32"} & set(found)
    assert found.count("ATTENTION_F32") == attentions
    assert not APART & set(found)


def test_masks_whose_sum_is_large_are_kept_apart():
    """Swin's bias of positions is one a head, its mask one a window: a product of both would be most of a file."""
    program = ek.compile(swin_stage(side=32), allow_host=False)
    windows, sides = 64, 2 * 16 * 16
    assert max(blob.bytes for blob in program.index.blobs) <= windows * 16 * 16 * 4 < windows * sides * 4


def test_a_factor_behind_the_mask_and_a_score_that_others_read_are_no_attention():
    def behind(net, q, k, v):
        masked = net.op("Add", net.op("MatMul", q, k), net.input("mask", (B, 1, 1, N)))
        return [mix(net, net.op("Mul", masked, net.const(0.5)), v)]

    def mild(net, q, k, v):
        kept = net.input("kept", (B, 1, N, N), TensorProto.BOOL)
        return [mix(net, net.op("Where", kept, net.op("MatMul", q, k), net.const(-2)), v)]

    def read(net, q, k, v):
        scores = net.op("MatMul", q, k)
        return [mix(net, scores, v), net.op("Relu", scores)]

    for build in (mild, read):
        net = Net()
        model = net.model(*build(net, *projected(net, net.input("x", (B, N, E)))))
        assert "ATTENTION_F32" not in kinds(assert_native(model))
    net = Net()
    assert_native(net.model(*behind(net, *projected(net, net.input("x", (B, N, E))))))


@pytest.mark.parametrize("written", ["Div", "Reciprocal", "one over it"])
def test_a_llama_layer_has_norms_and_one_attention(written):
    model = llama_layer(written)
    found = kinds(assert_native(model))
    assert (found.count("NORMALIZE"), found.count("ATTENTION_F32")) == (2, 1)
    assert not {"REDUCE", *APART} & set(found)
    program = ek.compile(ek.quantize(model, None, DYNAMIC), allow_host=False)
    assert kinds(program).count("GEMM_DYNAMIC") == 7
    [want] = onnxruntime_session(model, optimized=False).run(None, feeds_of(model))
    assert noise(results_everywhere(program, feeds_of(model))[0], want) > 28
