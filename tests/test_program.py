"""Programs and sessions at the core's border: what the compiler builds, the artifact stores and the runtime calls."""

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern import _core
from edgekern.errors import ArgumentTypeError, ArgumentValueError, ArtifactError, UnsupportedIsaError

from golden.younger import younger_programs

DType, StepKind = _core.DType, _core.StepKind
GOLDEN = Path(__file__).parent / "golden" / "every_step.ekm"
TABLE = np.arange(256, dtype=np.uint8)[::-1].copy()


def aligned(values: np.ndarray) -> np.ndarray:
    """A copy that starts on a cache line."""
    space = np.zeros(values.nbytes + 64, np.uint8)
    start = -space.ctypes.data % 64
    space[start : start + values.nbytes] = values.view(np.uint8)
    return space[start : start + values.nbytes]


def mirror_index() -> _core.ProgramIndex:
    """y = dequantize(255 - quantize(x)) for six floats."""
    tensors = [
        _core.TensorDef(name="x", dtype=DType.F32, shape=[2, 3], offset=0),
        _core.TensorDef(name="q", dtype=DType.U8, shape=[2, 3], scale=0.5, zero_point=128, offset=64),
        _core.TensorDef(name="m", dtype=DType.U8, shape=[2, 3], scale=0.5, zero_point=127, offset=128),
        _core.TensorDef(name="y", dtype=DType.F32, shape=[2, 3], offset=0),
    ]

    def step(kind: _core.StepKind, tensor_in: int, tensor_out: int, blobs: list[int]) -> _core.Step:
        name = kind.name.lower()
        return _core.Step(kind=kind, name=name, op=name, inputs=[tensor_in], outputs=[tensor_out], blobs=blobs)

    return _core.ProgramIndex(
        producer="tests",
        tensors=tensors,
        blobs=[_core.BlobDef(name="table", offset=0, bytes=256, sha256=bytes(32))],
        steps=[
            step(StepKind.QUANTIZE, 0, 1, []),
            step(StepKind.LOOKUP, 1, 2, [0]),
            step(StepKind.DEQUANTIZE, 2, 3, []),
        ],
        segments=[_core.Segment(begin=0, end=3)],
        inputs=[0],
        outputs=[3],
        arena_bytes=192,
    )


X = np.array([[-70.0, -1.2, -0.25], [0.0, 0.6, 70.0]], np.float32)
# quantize: 0, 126 (-2.4 -> -2), 128 (-0.5 -> 0, half to even), 128, 129, 255; mirror: 255 - q; minus 127, halved.
Y = np.array([[64.0, 1.0, 0.0], [0.0, -0.5, -63.5]], np.float32)


@pytest.fixture
def session(isa: str) -> _core.Session:
    return _core.Session(mirror_index(), aligned(TABLE), isa, 2)


def run(session: _core.Session, x: np.ndarray) -> np.ndarray:
    y = np.zeros_like(Y)
    assert session.run([x], [y])
    return y


def test_session_runs_a_program(session):
    np.testing.assert_array_equal(run(session, X), Y)
    assert session.run([X], [None])  # an output that nobody wants


def test_a_session_leaves_strided_arrays_alone(session):
    strided = np.full((2, 6), 7, np.float32)
    assert not session.run([np.asfortranarray(X)], [None])
    assert not session.run([X], [strided[:, ::2]])
    assert (strided == 7).all()


def test_an_output_may_share_memory_with_an_input(session):
    both = X.copy()
    session.run([both], [both])
    np.testing.assert_array_equal(both, Y)
    shifted = np.append(X.ravel(), np.zeros(2, np.float32))
    session.run([shifted[:6].reshape(2, 3)], [shifted[2:].reshape(2, 3)])
    np.testing.assert_array_equal(shifted[2:].reshape(2, 3), Y)


def test_session_runs_segments_and_steps_on_views_of_the_arena(session):
    session.tensor(0)[...] = X
    session.run_step(0)
    np.testing.assert_array_equal(session.tensor(1), [[0, 126, 128], [128, 129, 255]])
    session.tensor(0)[...] = X
    session.run_segment(0)
    np.testing.assert_array_equal(session.tensor(3), Y)


def test_session_says_what_it_is(session, isa):
    assert (session.isa, session.num_threads, session.bytes_copied) == (isa, 2, 0)
    assert session.arena_bytes >= 192


def test_views_keep_the_session_and_the_session_keeps_its_data():
    data = aligned(TABLE)
    session = _core.Session(mirror_index(), data, "", 1)
    view = session.tensor(0)
    session.tensor(0)[...] = X
    session.run_segment(0)
    del session, data
    gc.collect()
    np.testing.assert_array_equal(view, Y)  # x and y share their bytes


def test_misaligned_data_is_copied_and_reported():
    shifted = aligned(np.append(np.uint8(0), TABLE))[1:]
    session = _core.Session(mirror_index(), shifted, "", 1)
    assert session.bytes_copied == 256
    np.testing.assert_array_equal(run(session, X), Y)


def test_two_callers_of_one_session_take_turns(session):
    inputs = [np.full((2, 3), value, np.float32) for value in range(-20, 20)]
    expected = [run(session, x) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda x: run(session, x), inputs * 20))
    np.testing.assert_array_equal(got, expected * 20)


def test_run_message_names_tensor_rule_and_fact(session):
    with pytest.raises(ArgumentTypeError, match="input 'x' must be float32, got float64"):
        session.run([X.astype(np.float64)], [None])
    with pytest.raises(ArgumentTypeError, match="input 'x' must be a NumPy array, got list"):
        session.run([X.tolist()], [None])
    with pytest.raises(ArgumentValueError, match=r"input 'x' must have shape \(2, 3\), got \(3, 2\)"):
        session.run([X.reshape(3, 2)], [None])
    with pytest.raises(ArgumentValueError, match=r"input 'x' must have 2 dimensions \(2, 3\), got 1 \(6,\)"):
        session.run([X.ravel()], [None])
    with pytest.raises(ArgumentValueError, match="takes 1 inputs and 1 outputs, got 0 and 1"):
        session.run([], [None])
    with pytest.raises(ArgumentValueError, match="takes 1 inputs and 1 outputs, got 1 and 0"):
        session.check([X], [])
    with pytest.raises(ArgumentTypeError, match="out for 'y' must be float32, got uint8; convert it"):
        session.run([X], [np.zeros((2, 3), np.uint8)])
    fixed = np.zeros_like(Y)
    fixed.flags.writeable = False
    with pytest.raises(ArgumentValueError, match="out for 'y' is read-only"):
        session.run([X], [fixed])
    for call in (session.run_step, session.run_segment, session.tensor):
        with pytest.raises(ArgumentValueError, match=r"there is no .* 99"):
            call(99)


def test_session_refuses_damaged_programs_and_foreign_isas():
    index = mirror_index()
    with pytest.raises(ArtifactError, match="blob 'table' lies outside the file"):
        _core.Session(index, aligned(TABLE)[:192])
    with pytest.raises(UnsupportedIsaError, match="sse9"):
        _core.Session(index, aligned(TABLE), "sse9")
    with pytest.raises(ArgumentValueError, match="C-contiguous"):
        _core.Session(index, np.zeros(512, np.uint8)[::2])
    index.arena_bytes = 64
    with pytest.raises(ArtifactError, match="lies outside the arena"):
        index.validate(256)


def test_an_index_is_plain_data():
    index = mirror_index()
    assert index.tensors[1].zero_point == 128
    assert [step.kind for step in index.steps] == [StepKind.QUANTIZE, StepKind.LOOKUP, StepKind.DEQUANTIZE]
    index.tensors[1].zero_point = 3  # of a copy
    assert index.tensors[1].zero_point == 128
    index.header_sha256 = bytes(range(32))
    assert index.header_sha256 == bytes(range(32))
    with pytest.raises(ArgumentValueError, match="a digest has 32 bytes, got 3"):
        index.header_sha256 = b"abc"


def test_decode_gives_back_what_encode_wrote():
    index = mirror_index()
    data = index.encode()
    assert _core.ProgramIndex.decode(data) == index
    assert _core.ProgramIndex.decode(data).encode() == data
    other = mirror_index()
    other.producer = "someone else"
    assert other != index
    assert index != "index"


def test_encode_refuses_what_decode_would():
    index = mirror_index()
    index.producer = "x" * 5000
    with pytest.raises(ArgumentValueError, match="producer: a count of 5000 passes the limit of 4096"):
        index.encode()


@pytest.fixture(scope="module")
def golden() -> _core.ProgramIndex:
    return ek.Program.load(GOLDEN).index


@pytest.fixture(scope="module")
def step_of(golden) -> dict[_core.StepKind, _core.Step]:
    """A step of every kind."""
    indices = [golden, *(program.index for program in younger_programs().values())]
    return {step.kind: step for index in indices for step in index.steps}


def step_with(step: _core.Step, arguments: dict) -> _core.Step:
    """A step like another one, with other arguments."""
    return _core.Step(
        kind=step.kind,
        name=step.name,
        op=step.op,
        inputs=step.inputs,
        outputs=step.outputs,
        blobs=step.blobs,
        arguments=arguments,
    )


def test_a_step_is_made_of_the_arguments_that_it_states(golden, step_of):
    assert set(step_of) == set(StepKind)
    made = _core.ProgramIndex.decode(golden.encode())
    made.steps = [step_with(step, step.arguments) for step in golden.steps]
    assert made == golden
    backwards = [step_with(step, dict(reversed(step.arguments.items()))) for step in golden.steps]
    assert [step.arguments for step in backwards] == [step.arguments for step in golden.steps]


@pytest.mark.parametrize("kind", StepKind, ids=lambda kind: kind.name)
def test_a_step_takes_the_arguments_of_its_kind_and_no_others(step_of, kind):
    step = step_of[kind]
    known = step.arguments
    with pytest.raises(ArgumentValueError, match=f"no argument 'unheard_of' of {kind.name}; it takes"):
        step_with(step, known | {"unheard_of": 1})
    for name, value in known.items():
        others = {other: known[other] for other in known if other != name}
        with pytest.raises(ArgumentValueError, match=f"the argument '{name}' of {kind.name} is missing"):
            step_with(step, others)
        for wrong in ("3", None, [value], *([] if isinstance(value, float) else [1.5])):
            with pytest.raises(ArgumentTypeError, match=f"'{name}' of {kind.name} must be an? "):
                step_with(step, known | {name: wrong})
        if isinstance(value, list) and name != "bytes":  # as many as there are pieces
            numbers = f"{len(value)} numbers, got {len(value) - 1}"
            with pytest.raises(ArgumentValueError, match=f"'{name}' of {kind.name} must have {numbers}"):
                step_with(step, known | {name: value[:-1]})


def test_arguments_are_replaced_whole_or_not_at_all(step_of):
    step = step_of[StepKind.TRANSPOSE]
    before = step.arguments
    with pytest.raises(ArgumentValueError, match="'item_bytes' of TRANSPOSE is missing"):
        step.arguments = {"x_shape": [1, 2, 3, 4], "perm": [3, 2, 1, 0]}
    assert step.arguments == before
    step.arguments = {"x_shape": (1, 2, 3, np.int64(4)), "perm": np.array([3, 2, 1, 0]), "item_bytes": 1}
    assert step.arguments == {"x_shape": [1, 2, 3, 4], "perm": [3, 2, 1, 0], "item_bytes": 1}
    step.arguments = before


def test_kinds_that_the_enum_lacks_are_no_steps():
    """The number of a kind stands where two indices differ that differ in one kind."""
    index, other = mirror_index(), mirror_index()
    other.steps = [other.steps[0], other.steps[1], mirror_index().steps[0]]
    renamed = index.steps
    renamed[2].name, renamed[2].op, renamed[2].inputs, renamed[2].outputs = "quantize", "quantize", [0], [1]
    index.steps = renamed
    data = index.encode()
    [at] = [i for i, (a, b) in enumerate(zip(data, other.encode(), strict=True)) if a != b]
    for number in range(256):
        changed = data[:at] + bytes([number]) + data[at + 1 :]
        if number in set(StepKind):
            assert _core.ProgramIndex.decode(changed).steps[2].kind == StepKind(number)
        else:
            with pytest.raises(ArtifactError, match=f"unknown step kind {number}"):
                _core.ProgramIndex.decode(changed)


def test_work_is_multiply_adds_and_bytes():
    index = mirror_index()
    assert [index.work(step) for step in range(3)] == [(0, 24 + 6), (0, 6 + 6 + 256), (0, 6 + 24)]
    with pytest.raises(ArgumentValueError, match="there is no step 3"):
        index.work(3)
    steps = index.steps
    steps[1].inputs = [9]
    index.steps = steps
    assert index.work(0) == (0, 30)
    with pytest.raises(ArtifactError, match="names a tensor or blob that does not exist"):
        index.work(1)
    steps[1].inputs = [0]
    index.steps = steps
    with pytest.raises(ArtifactError, match=r"step 'lookup' \(lookup\): damaged arguments"):
        index.work(1)


def test_work_of_a_product_is_that_of_its_formula(golden):
    for number, step in enumerate(golden.steps):
        a = step.arguments
        pixels = a.get("batch", 0) * a.get("out_h", 0) * a.get("out_w", 0) * a.get("kernel_h", 0) * a.get("kernel_w", 0)
        expected = {
            StepKind.GEMM: a.get("rows", 0) * a.get("k", 0) * a.get("columns", 0),
            StepKind.CONV: pixels * a.get("in_channels", 0) // a.get("groups", 1) * a.get("out_channels", 0),
            StepKind.DEPTHWISE: pixels * a.get("channels", 0),
        }.get(step.kind, 0)
        assert step.macs == golden.work(number)[0] == expected


@given(at=st.integers(0, 10_000), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_leaves_a_valid_index(at, flip):
    data = bytearray(mirror_index().encode())
    data[at % len(data)] ^= flip
    refused = False
    try:
        index = _core.ProgramIndex.decode(bytes(data))
        index.validate(256)
    except ArtifactError:
        refused = True
    assert refused or index.encode() == bytes(data)


@given(junk=st.binary(max_size=300))
def test_junk_is_no_index(junk):
    with pytest.raises(ArtifactError):
        _core.ProgramIndex.decode(junk)


def test_packed_blobs_are_whole_cache_lines(rng):
    weights = rng.integers(-128, 128, (3, 20, 9, 7), dtype=np.int8)
    blob = _core.pack_weights_blob(weights)
    assert len(blob) == 3 * (32 * 9 * 8 + 32 * 4)
    assert blob == _core.pack_weights_blob(np.asfortranarray(weights))
    sums = np.frombuffer(blob, np.int32, 20, offset=32 * 9 * 8)
    np.testing.assert_array_equal(sums, weights[0].sum(axis=(1, 2), dtype=np.int32))
    depthwise = rng.integers(-128, 128, (37, 9), dtype=np.int8)
    blob = _core.pack_depthwise_blob(depthwise)
    assert len(blob) == 48 * (12 + 4)
    np.testing.assert_array_equal(np.frombuffer(blob, np.int32, 37, offset=48 * 12), depthwise.sum(1, dtype=np.int32))
    with pytest.raises(ArgumentTypeError, match="w must be int8, got float32"):
        _core.pack_weights_blob(weights.astype(np.float32))
    with pytest.raises(ArgumentValueError, match="w must have 4 axes"):
        _core.pack_weights_blob(depthwise)
