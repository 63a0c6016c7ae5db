"""torch's tensors at the borders: read and written in place, and refused with the method that helps."""

import copy
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import edgekern as ek
from edgekern.errors import ArgumentTypeError, EdgekernError

from graphs import Graph

torch = pytest.importorskip("torch", reason="torch is not installed (pip install 'edgekern[torch]')")

RNG = np.random.default_rng(7)
X = RNG.standard_normal((4, 8)).astype(np.float32)
Q = RNG.integers(-128, 128, (4, 8)).astype(np.int8)
W = RNG.integers(-128, 128, (8, 6)).astype(np.int8)
PACKED = ek.pack_weights(W, scale=0.1)


@pytest.fixture(scope="module")
def session():
    g = Graph()
    model = g.model(g.op("Gemm", g.qdq(g.input("x", (4, 8))), g.weights(8, 6, axis=1)))
    return ek.InferenceSession(ek.compile(model, allow_host=False))


@pytest.fixture
def silent():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def linear(x, **options):
    return ek.linear(x, PACKED, **options)


CALLS = {
    "matmul_integer": (lambda a: ek.matmul_integer(a, W), Q),
    "linear": (linear, X),
    "quantize_linear": (lambda x: ek.quantize_linear(x, 0.1, 128), X),
    "dequantize_linear": (lambda x: ek.dequantize_linear(x, 0.1), Q),
    "dynamic_quantize": (lambda x: ek.dynamic_quantize(x)[0], X),
    "pack_weights": (lambda w: ek.matmul_integer(Q, ek.pack_weights(w)), W),
    "rms_norm": (lambda x: ek.rms_norm(x, x[0]), X),
    "Histogram": (lambda x: ek.Histogram().update(x).max, X),
}


@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("name", CALLS)
def test_tensors_are_arrays(name):
    call, values = CALLS[name]
    assert_array_equal(call(torch.from_numpy(values)), call(values))
    assert_array_equal(call(torch.from_numpy(values.T.copy()).T.contiguous()), call(values))


@pytest.mark.usefixtures("silent")
def test_results_are_written_into_tensors(session):
    out, counts = torch.zeros(4, 6), torch.zeros(4, 6, dtype=torch.int32)
    assert linear(torch.from_numpy(X), out=out) is out
    assert_array_equal(out.numpy(), linear(X))
    assert ek.matmul_integer(torch.from_numpy(Q), W, out=counts) is counts
    assert_array_equal(counts.numpy(), ek.matmul_integer(Q, W))
    kept = torch.zeros(4, 6)
    [got] = session.run(None, {"x": torch.from_numpy(X)}, out=[kept])
    assert got is kept
    assert_array_equal(kept.numpy(), session.run(None, {"x": X})[0])


@pytest.mark.usefixtures("silent")
def test_tensors_are_bound(session):
    x, out = torch.from_numpy(X.copy()), torch.zeros(4, 6)
    binding = session.bind({"x": x}, {session.get_outputs()[0].name: out})
    binding.run()
    assert_array_equal(out.numpy(), session.run(None, {"x": X})[0])
    x.mul_(2)
    binding.run()
    assert_array_equal(out.numpy(), session.run(None, {"x": 2 * X})[0])


REFUSED = {
    "grad": (lambda: torch.from_numpy(X).requires_grad_(), r"requires grad; call \.detach\(\)"),
    "part of a graph": (lambda: torch.from_numpy(X).requires_grad_() * 2, r"requires grad; call \.detach\(\)"),
    "bfloat16": (lambda: torch.from_numpy(X).bfloat16(), r"bfloat16, which NumPy lacks; call \.float\(\)"),
    "meta": (lambda: torch.empty(4, 8, device="meta"), "on the device meta"),
    "sparse": (lambda: torch.from_numpy(X).to_sparse(), r"is sparse; call \.to_dense\(\)"),
    "sparse rows": (lambda: torch.from_numpy(X).to_sparse_csr(), r"is sparse; call \.to_dense\(\)"),
    "negative": (lambda: torch.view_as_complex(torch.from_numpy(X).view(4, 4, 2)).conj().imag, r"call \.resolve_neg"),
    "conjugate": (lambda: torch.view_as_complex(torch.from_numpy(X).view(4, 4, 2)).conj(), r"call \.resolve_conj"),
    "float8": (lambda: torch.from_numpy(X).to(torch.float8_e4m3fn), "NumPy cannot read"),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support is in beta state")
@pytest.mark.parametrize("name", REFUSED)
def test_tensors_that_cannot_be_read_name_the_method_that_helps(session, name):
    make, message = REFUSED[name]
    for call in (linear, lambda x: ek.quantize_linear(x, 0.1), lambda x: session.run(None, {"x": x})):
        with pytest.raises(ArgumentTypeError, match=message):
            call(make())
    with pytest.raises(ArgumentTypeError, match=message):
        session.run(None, {"x": X}, out=[make()])


@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning", "ignore:.*quantiz.*:DeprecationWarning")
def test_quantized_tensors_are_refused():
    tensor = torch.quantize_per_tensor(torch.from_numpy(X), 0.1, 0, torch.qint8)
    with pytest.raises(ArgumentTypeError, match=r"is quantized; take \.int_repr\(\)"):
        linear(tensor)


@pytest.mark.parametrize("dtype", ["float16", "float64", "int64", "int32", "uint8", "bool", "complex64"])
def test_tensors_of_other_types_are_refused_as_arrays_are(session, dtype):
    tensor = torch.ones(4, 8, dtype=getattr(torch, dtype))
    for call in (linear, lambda x: session.run(None, {"x": x})):
        messages = []
        for given in (tensor, tensor.numpy()):
            with pytest.raises(EdgekernError) as refused:
                call(given)
            messages.append(str(refused.value))
        assert messages[0] == messages[1]


def test_a_calibrator_and_compare_take_tensors():
    g = Graph()
    floats = g.model(g.op("Gemm", g.input("x", (4, 8)), g.const(W, np.float32)))
    got = ek.Calibrator(floats, progress=False).collect({"x": torch.from_numpy(X)})
    want = ek.Calibrator(floats, progress=False).collect({"x": X})
    assert got.compute_ranges() == want.compute_ranges()
    with pytest.raises(ArgumentTypeError, match=r"feeds\['x'\] is a Tensor of bfloat16"):
        got.collect({"x": torch.from_numpy(X).bfloat16()})


def test_scalars_and_ids_are_tensors_too():
    q = ek.quantize_linear(X, torch.tensor(0.1), torch.tensor(3))
    assert_array_equal(q, ek.quantize_linear(X, 0.1, 3))
    signed = ek.quantize_linear(X, 0.1, torch.tensor(3, dtype=torch.int8))  # whose type is the result's
    assert_array_equal(signed, ek.quantize_linear(X, 0.1, np.int8(3)))
    assert signed.dtype == np.int8
    assert_array_equal(
        ek.linear(Q, PACKED, x_scale=torch.tensor(0.5, dtype=torch.bfloat16)), ek.linear(Q, PACKED, x_scale=0.5)
    )
    assert_array_equal(
        ek.matmul_integer(Q, W, a_zero_point=torch.tensor(3), b_zero_point=torch.arange(6)),
        ek.matmul_integer(Q, W, a_zero_point=3, b_zero_point=np.arange(6)),
    )


def test_a_module_that_holds_a_session_is_copied(session):
    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.session = session

    again = copy.deepcopy(Model())
    assert_array_equal(again.session.run(None, {"x": X})[0], session.run(None, {"x": X})[0])
