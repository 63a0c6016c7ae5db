"""Chains of element-wise operations: one result on all ISAs and threads, and as close to float64 as each promises."""

import hashlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern._core import MapOp, StepKind
from edgekern.errors import ArtifactError

from map_chains import chain
from one_step import assert_equals_reference, one_step
from reference.maps import operands_of

# SHA-256 of the bytes that every machine gives for fixed inputs; tests/reference computed it.
GOLDEN = "f423df5806b51d29"
SPECIALS = np.float32(
    [0.0, -0.0, 0.5, 1.5, 2.5, -0.5, 1, -1, 2, 3, 1e30, -1e30, np.inf, -np.inf, np.nan, 1e-40, -1e-45, 2**24 + 2]
)
ARITY = {op: operands_of(op) for op in MapOp}


def awkward(rng, *shape, spread=3.0):
    """Of every size, and with special values more often than chance."""
    x = rng.normal(size=shape) * np.exp(rng.normal(size=shape) * spread)
    return np.where(rng.random(shape) < 0.3, rng.choice(SPECIALS, shape), x).astype(np.float32)


@pytest.mark.parametrize("op", list(MapOp), ids=lambda op: op.name)
def test_every_operation_is_its_definition(op):
    rng = np.random.default_rng(op)
    operands = [awkward(rng, 1003) for _ in range(ARITY[op])]
    assert_equals_reference(chain(operands, [(op.name, *range(ARITY[op]))]), operands)


def wide(function):
    return lambda *x: function(*(array.astype(np.float64) for array in x))


# Units in the last place, and the function in float64.
BOUNDS = {
    "EXP": (1, np.exp),
    "LOG": (1, np.log),
    "SIN": (0.51, np.sin),
    "COS": (0.51, np.cos),
    "TAN": (0.51, np.tan),
    "ASIN": (0.51, np.arcsin),
    "ACOS": (0.51, np.arccos),
    "ATAN": (0.51, np.arctan),
    "SINH": (0.51, np.sinh),
    "COSH": (0.51, np.cosh),
    "TANH": (5, np.tanh),
    "ERF": (2, np.vectorize(math.erf, otypes=[np.float64])),
    "SIGMOID": (3, lambda x: np.where(x < 0, np.exp(-np.abs(x)), 1) / (1 + np.exp(-np.abs(x)))),
    "SOFTPLUS": (2, lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))),
    "SQRT": (0.5, np.sqrt),
    "POW": (0.51, np.power),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_functions_are_as_close_as_they_promise(name):
    """For floats of all exponents, and densely where a function bends."""
    rng = np.random.default_rng(len(name))
    bits = rng.integers(0, 2**32, 60_000, np.uint32).view(np.float32)
    dense = np.concatenate([rng.uniform(-limit, limit, 20_000) for limit in (0.1, 1, 10, 105)]).astype(np.float32)
    x = [np.concatenate([bits, dense, SPECIALS])]
    if name == "POW":
        x = [np.concatenate([x[0], np.abs(dense)]), np.concatenate([rng.permutation(x[0]), rng.permutation(dense)])]
    bound, function = BOUNDS[name]
    [found] = ek.InferenceSession(chain(x, [(name, *range(len(x)))])).run(
        None, {f"x{number}": array for number, array in enumerate(x)}
    )
    with np.errstate(all="ignore"):
        truth = wide(function)(*x)
        rounded = truth.astype(np.float32)
        unit = np.spacing(np.abs(rounded)).astype(np.float64)
        error = np.abs(found - truth) / unit
    same = (found == rounded) | (np.isnan(found) & np.isnan(rounded))
    wrong = ~same & ~(error <= bound)
    if name == "SIGMOID":  # what is subnormal may be 0
        wrong &= ~((truth < 2.0**-126) & (found < 2.0**-126))
    assert not wrong.any(), [(*(a[wrong][:3] for a in x), found[wrong][:3], truth[wrong][:3])]


def shapes_and_operands():
    sides = st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 33, 70]), min_size=1, max_size=4)
    return st.tuples(sides.map(lambda s: s if math.prod(s) < 20_000 else s[-2:]), st.integers(0, 2**32))


@given(shapes_and_operands())
def test_any_chain_over_any_broadcast_equals_the_reference(case):
    sides, seed = case
    rng = np.random.default_rng(seed)
    operands = [
        awkward(rng, *(side if rng.random() < 0.6 else 1 for side in sides[rng.integers(0, len(sides)) :]))
        for _ in range(rng.integers(1, 5))
    ]
    operands[0] = awkward(rng, *sides)
    for at, x in enumerate(operands[1:], 1):
        kind = rng.integers(0, 6)
        if kind == 0:
            operands[at] = x > 0
        elif kind == 1:
            operands[at] = np.clip(np.nan_to_num(x), -1000, 1000).astype(np.int32)
    constants = [0.25, -3.0][: rng.integers(0, 3)]
    cheap = [op for op in MapOp if not MapOp.EXP <= op <= MapOp.SOFTPLUS and op != MapOp.POW]
    code = []
    for number in range(rng.integers(1, 12)):
        op = cheap[rng.integers(0, len(cheap))]
        known = len(operands) + len(constants) + number
        # The latest values more often, so that blocks come free.
        values = [int(known - 1 - min(rng.geometric(0.4) - 1, known - 1)) for _ in range(ARITY[op])]
        code.append((op.name, *values))
    blobs = int(rng.integers(0, len(operands)))
    blobs = blobs if all(x.dtype == np.float32 for x in operands[len(operands) - blobs :]) else 0
    program = chain(operands, code, shape=tuple(sides), constants=constants, blobs=blobs)
    assert_equals_reference(program, operands[: len(operands) - blobs])


@pytest.mark.parametrize(
    ("shape", "other"),
    [
        ((2, 7, 9, 24), (24,)),  # the channels of an image
        ((1, 50, 50, 3), (3,)),
        ((2, 31, 31, 37), (2, 1, 1, 37)),
        ((2, 31, 31, 100), (2, 1, 1, 100)),
        ((3, 4, 30, 30), (3, 4, 1, 1)),
        ((40, 5000), (5000,)),
        ((40, 5000), (40, 1)),
        ((70_000,), (1,)),
        ((300_001,), (300_001,)),
        ((50, 3, 7), (3, 1)),
        ((6, 5, 4, 3, 2), (5, 1, 3, 1)),
        ((1, 1), (1,)),
    ],
)
def test_a_broadcast_operand_of_many_blocks(shape, other):
    rng = np.random.default_rng(5)
    operands = [rng.normal(size=shape).astype(np.float32), rng.normal(size=other).astype(np.float32)]
    code = [("MUL", 0, 1), ("ADD", 2, 0), ("MAX", 1, 3)]
    assert_equals_reference(chain(operands, code), operands)
    assert_equals_reference(chain(operands, [("SUB", 0, 1)], blobs=1), operands[:1])


def test_operands_may_be_walked_in_another_order():
    """As a transposed tensor is."""
    rng = np.random.default_rng(6)
    x, z = rng.normal(size=(70, 90)).astype(np.float32), rng.normal(size=(90, 70)).astype(np.float32)
    code = [0] * 6 + [90, 1] + [0] * 6 + [1, 70] + [MapOp.ADD, 0, 1, 0]
    shape = [1] * 6 + [70, 90]
    program = one_step(StepKind.MAP, [x, z], ((70, 90), np.float32), shape=shape, operands=2, constants=[], code=code)
    np.testing.assert_array_equal(assert_equals_reference(program, [x, z]), x + z.T)


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.int64, np.uint8, np.int8, np.float32])
@pytest.mark.parametrize("source", [np.bool_, np.int32, np.int64, np.uint8, np.int8, np.float32])
def test_types_on_the_way_in_and_out(source, dtype):
    rng = np.random.default_rng(7)
    x = awkward(rng, 5, 211)
    if np.issubdtype(source, np.integer):
        limits = np.iinfo(source)
        x = rng.integers(limits.min, limits.max, x.shape, endpoint=True)
    x = x.astype(source)
    scale = np.array([0.7], np.float32)
    first = chain([scale, x], [("MUL", 1, 0)], dtype=dtype)  # float32 first: a float chain
    assert_equals_reference(first, [scale, x])


def test_codes_have_the_scales_of_their_tensors():
    x = np.random.default_rng(8).integers(0, 256, (3, 100), np.uint8)
    program = chain([np.ones(1, np.float32), x], [("MUL", 0, 1), ("ADD", 2, 0)], dtype=np.int8)
    index = program.index
    tensors = index.tensors
    tensors[1].scale, tensors[1].zero_point = 0.1, 128
    tensors[2].scale, tensors[2].zero_point = 0.05, -3
    index.tensors = tensors
    scaled = ek.Program.build(index, [], program.manifest)
    found = assert_equals_reference(scaled, [np.ones(1, np.float32), x])
    truth = np.clip(np.rint(((x - 128.0) * 0.1 + 1) / 0.05) - 3, -128, 127)
    assert np.abs(found - truth).max() <= 1


def golden_program():
    x = np.zeros((3, 17, 40), np.float32)
    code = [("MUL", 0, 1), ("EXP", 3), ("TANH", 3), ("MUL_ADD", 4, 5, 2), ("ERF", 6), ("SIGMOID", 7), ("LOG", 8)]
    return chain([x, x[0, 0]], [*code, ("SIN", 9), ("POW", 8, 10), ("SOFTPLUS", 11)], constants=[0.37])


def test_golden_bytes(isa):
    rng = np.random.Generator(np.random.PCG64(24))
    feeds = {"x0": rng.normal(size=(3, 17, 40)).astype(np.float32), "x1": rng.normal(size=40).astype(np.float32)}
    [found] = ek.InferenceSession(golden_program(), isa=isa).run(None, feeds)
    assert hashlib.sha256(found.tobytes()).hexdigest()[:16] == GOLDEN


def test_long_chains_need_few_blocks():
    """Blocks of scratch memory are free again after the last use of what they hold."""
    x = np.ones((100, 1000), np.float32)
    short = ek.InferenceSession(chain([x], [("EXP", 0), ("LOG", 1)]), num_threads=1)
    long = chain([x], [("EXP", 0)] + [("ADD", number, number) for number in range(1, 200)] + [("MIN", 200, 0)])
    assert ek.InferenceSession(long, num_threads=1).arena_bytes <= short.arena_bytes + 40_000
    assert_equals_reference(long, [x])


def damaged(**changes):
    x = np.zeros((4, 5), np.float32)
    arguments = {
        "shape": [1] * 6 + [4, 5],
        "operands": 2,
        "constants": [1.0],
        "code": [0] * 6 + [5, 1] + [0] * 7 + [1] + [MapOp.ADD, 0, 1, 0, MapOp.EXP, 3, 0, 0],
    }
    at, value = changes.pop("code", (0, 0))
    arguments["code"][at] = value
    arguments.update(changes)
    return one_step(StepKind.MAP, [x, x[0]], ((4, 5), np.float32), **arguments)


@pytest.mark.parametrize(
    "changes",
    [
        {"code": (6, 6)},  # one item too far
        {"code": (15, 2)},
        {"code": (8, 2**31 - 1), "shape": [2] + [1] * 5 + [2, 5]},
        {"code": (16, 50)},  # no operation
        {"code": (17, 3)},  # its own result
        {"code": (21, 4)},
        {"code": (19, 1)},  # an operand of none
        {"operands": 3},
        {"operands": 1},
        {"shape": [1] * 6 + [4, 6]},
        {"shape": [1] * 6 + [5, 4]},
    ],
)
def test_what_would_read_elsewhere_is_refused(changes):
    assert damaged() is not None
    with pytest.raises(ArtifactError, match="step"):
        ek.InferenceSession(damaged(**changes))


def test_a_chain_without_elements_runs():
    x = np.zeros((0, 5), np.float32)
    assert_equals_reference(chain([x, np.zeros(5, np.float32)], [("ADD", 0, 1)]), [x, np.zeros(5, np.float32)])


def test_it_says_what_runs(isa):
    assert chain([np.zeros(3, np.float32)], [("EXP", 0)]).paths(isa=isa) == ("map",)


def test_every_operation_has_its_number():
    assert [op.value for op in MapOp] == list(range(52))
