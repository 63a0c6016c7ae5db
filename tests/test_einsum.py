"""Einsum on float32: products on tensors as they lie, whatever the equation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

import edgekern as ek
from test_float_nets import assert_native, kinds, net

SIZES = dict(zip("abcdef", (2, 3, 4, 5, 1, 3), strict=True))


def einsum(equation, *shapes, weights=None):
    """A model of one Einsum; ``weights`` is the last operand where it is constant."""
    names = [f"x{at}" for at in range(len(shapes))]
    given_ = dict(zip(names, shapes, strict=True))
    if weights is not None:
        given_.pop(names[-1])
    node = helper.make_node("Einsum", names, ["y"], equation=equation)
    return net([node], {} if weights is None else {names[-1]: weights}, given_, ["y"])


@st.composite
def equations(draw):
    """Terms over six letters, some of them twice in a term, and a result of letters that they have."""
    terms = draw(st.lists(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4), min_size=1, max_size=3))
    found = sorted({letter for term in terms for letter in term})
    result = draw(st.lists(st.sampled_from(found), unique=True, max_size=5))
    shapes = [tuple(SIZES[letter] for letter in term) for term in terms]
    return ",".join(map("".join, terms)) + "->" + "".join(result), shapes, draw(st.booleans())


@settings(max_examples=60, deadline=None)
@given(equations())
def test_any_equation_gives_numpys_numbers(drawn):
    equation, shapes, constant = drawn
    rng = np.random.default_rng(1)
    arrays = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    fixed = arrays[-1] if constant and len(arrays) > 1 else None
    program = ek.compile(einsum(equation, *shapes, weights=fixed), allow_host=False)
    fed = arrays if fixed is None else arrays[:-1]
    [found] = ek.InferenceSession(program).run(None, {f"x{at}": array for at, array in enumerate(fed)})
    want = np.einsum(equation, *arrays)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bqhd,bkhd->bhqk", [(2, 3, 4, 5), (2, 7, 4, 5)]),
        ("bhqk,bkhd->bqhd", [(2, 4, 3, 7), (2, 7, 4, 5)]),
        ("bhwc,hkc->bhwk", [(2, 3, 4, 5), (3, 6, 5)]),
        ("...ij,jk", [(2, 3, 4), (4, 5)]),
        ("...a, ...a -> ...", [(2, 1, 5), (1, 3, 5)]),
        ("i,i", [(5,), (5,)]),
    ],
)
def test_a_product_of_two_is_one_step_on_tensors_as_they_lie(equation, shapes):
    assert kinds(assert_native(einsum(equation, *shapes))) == ["MATMUL_F32"]


def test_three_operands_are_multiplied_from_left_to_right():
    assert kinds(assert_native(einsum("ab,bc,cd->ad", (2, 3), (3, 4), (4, 5)))) == ["MATMUL_F32"] * 2


@pytest.mark.parametrize("equation", ["bsd,dhk->bshk", "bshk,dhk->bsd"])
def test_weights_are_packed_once(equation):
    weights = np.random.default_rng(0).normal(size=(8, 2, 4)).astype(np.float32)
    shape = (2, 3, 8) if equation.startswith("bsd") else (2, 3, 2, 4)
    assert kinds(assert_native(einsum(equation, shape, (8, 2, 4), weights=weights))) == ["GEMM_F32"]


def test_one_operand_is_transposed_summed_or_cut_along_its_diagonal():
    assert kinds(assert_native(einsum("abc->cab", (2, 3, 4)))) == ["TRANSPOSE"]
    assert kinds(assert_native(einsum("abc->b", (2, 3, 4)))) == ["REDUCE", "REDUCE"]
    assert kinds(assert_native(einsum("aab->ba", (3, 3, 4))))[-1] == "PICK"
    assert kinds(assert_native(einsum("ii", (3, 3)))) == ["PICK", "REDUCE"]


def test_what_reads_an_einsum_may_be_fused_into_it():
    weights = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    nodes = [
        helper.make_node("Einsum", ["x", "w"], ["a"], equation="abk,kn->abn"),
        helper.make_node("Add", ["a", "r"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    program = assert_native(net(nodes, {"w": weights}, {"x": (2, 3, 8), "r": (2, 3, 4)}, ["y"]))
    assert kinds(program) == ["GEMM_F32"]
