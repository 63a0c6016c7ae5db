"""Recipes by role: attention, convolutions, embeddings and all other layers, found by what they are connected to."""

import warnings

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import edgekern as ek
import transformers
from edgekern.errors import EdgekernWarning, QuantizationError
from edgekern.graph.values import label
from edgekern.quantization import compute_encodings, plan_of
from edgekern.quantization.prepare import prepare
from edgekern.quantization.roles import attention_products, embedding_tables
from test_float_nets import feeds_of, kinds

from float_models import f32, ranges_of, samples, small_cnn, sqnr_db
from graphs import onnxruntime_session, results_everywhere


def prepared(model):
    made = ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model))
    prepare(made)
    return made.graph


def products(graph):
    return [label(n) for n in graph if n.op_type in ("Conv", "Gemm", "MatMul") and n.inputs[1].is_initializer()]


def attention(model):
    """Which of the products by constants, by their places among them."""
    graph = prepared(model)
    found = {label(node) for node in attention_products(graph)}
    return [at for at, name in enumerate(products(graph)) if name in found]


@pytest.mark.parametrize("spelling", transformers.SPELLINGS)
def test_projections_are_found_however_attention_is_written(spelling):
    model = transformers.spelled(spelling)
    assert attention(model) == list(range(len(products(prepared(model)))))  # it has nothing else


@pytest.mark.parametrize(
    ("model", "places"),
    [
        (transformers.vision_transformer, [1, 2, 5, 6]),  # behind the patches, before the feed-forward layers
        (transformers.swin_stage, [0, 1, 4, 5]),
        (transformers.decoder, [0, 1, 2, 3]),
        (transformers.llama_layer, [0, 1, 2, 3]),
    ],
)
def test_other_products_of_a_transformer_are_no_attention(model, places):
    found = prepared(model())
    assert attention(model()) == places
    assert len(products(found)) >= len(places)


def test_what_computes_a_mask_or_ends_a_classifier_is_no_attention():
    net = transformers.Net()
    x = net.input("x", (2, 6, 8))
    bias = net.dense(net.op("Relu", net.dense(net.input("positions", (6, 4)), 4, 8)), 8, 6)
    q, k, v = (net.dense(x, 8, 8) for _ in range(3))
    scores = net.op("Add", net.op("MatMul", q, net.transpose(k, 0, 2, 1)), bias)
    y = net.dense(net.op("Add", x, net.op("MatMul", net.op("Softmax", scores, axis=-1), v)), 8, 5)
    model = net.model(net.op("Softmax", y, axis=-1))
    assert attention(model) == [2, 3, 4]


def test_a_product_whose_shape_alone_is_asked_for_is_no_attention():
    """As exporters write heads of a free batch: the Reshape reads the shape of what the layer before has made."""
    net = transformers.Net()
    x = net.dense(net.input("x", ("batch", 6, 8)), 8, 8)  # a layer before
    batch = net.op("Slice", net.op("Shape", x), net.ints(0), net.ints(1))
    sides = net.op("Concat", batch, net.ints(6, 2, 4), axis=0)
    y = net.op("Relu", net.dense(net.norm(x, 8), 8, 8))  # keeps the projections from reading x itself
    q, k, v = (net.transpose(net.op("Reshape", net.dense(y, 8, 8), sides), 0, 2, 1, 3) for _ in range(3))
    scores = net.op("MatMul", q, net.transpose(k, 0, 1, 3, 2))
    mixed = net.transpose(net.op("MatMul", net.op("Softmax", scores, axis=-1), v), 0, 2, 1, 3)
    assert attention(net.model(mixed)) == [2, 3, 4]


def test_an_operator_that_is_called_attention_is_one():
    net = transformers.Net()
    x = net.input("x", (2, 6, 8))
    q, k, v = (net.dense(x, 8, 8) for _ in range(3))
    y = net.op("MultiHeadAttention", q, k, v, num_heads=2, domain="com.microsoft")
    model = net.model(net.dense(net.op("Relu", net.dense(y, 8, 8)), 8, 8))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    for node in model.graph.node:
        node.name = node.output[0]
    assert attention(model) == [0, 1, 2, 3]


# ---- what each recipe makes of it ----


def vision_transformer():
    model = transformers.vision_transformer(side=16, patch=4, width=64, heads=2)
    model.opset_import[0].version = 21
    return model


def seen(model, x):
    """The largest values of images that come one at a time."""
    calibrator = ek.Calibrator(model)
    calibrator.collect_many([{model.graph.input[0].name: part[None]} for part in x])
    return calibrator.compute_ranges(method="max")


def quietly(model, ranges, config):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EdgekernWarning)
        return ek.quantize(model, ranges, config)


@pytest.mark.parametrize(
    ("recipe", "of_attention", "of_linear", "of_conv"),
    [
        ("mixed", "w4a8-g32", "w8a8-dynamic", "w8a8"),
        ("performance", "w4a8-g32", "w8a8-dynamic", "w8a8"),
        ("accuracy", "w8a8-dynamic", "w8a16", "w8a16"),
    ],
)
def test_each_role_gets_its_recipe(recipe, of_attention, of_linear, of_conv, rng):
    model = vision_transformer()
    ranges = seen(model, f32(rng.normal(size=(4, 3, 16, 16))))
    found = [choice.recipe for choice in plan_of(quietly(model, ranges, ek.QuantConfig(recipe=recipe))).choices]
    want = [of_attention if at in (1, 2, 5, 6) else of_linear for at in range(10)]
    assert found == [of_conv, *want[1:]]


@pytest.mark.parametrize(("recipe", "static"), [("mixed", "w8a8"), ("performance", "w8a8"), ("accuracy", "w8a16")])
def test_a_convolutional_net_is_static_throughout(recipe, static, rng):
    model = small_cnn()
    ranges = ranges_of(model, samples(rng), method="max")
    qdq, same = (ek.quantize(model, ranges, ek.QuantConfig(recipe=name)) for name in (recipe, static))
    assert {choice.recipe for choice in plan_of(qdq).choices} == {static}
    assert qdq.graph == same.graph


def test_a_rule_wins_over_a_role(rng):
    model = vision_transformer()
    names = [label(node) for node in prepared(model) if node.op_type == "MatMul"]
    config = ek.QuantConfig(recipe="performance", overrides={"MatMul": "w4a16-g128", names[0]: "float32"})
    ranges = seen(model, f32(rng.normal(size=(4, 3, 16, 16))))
    chosen = {choice.node: choice.recipe for choice in plan_of(quietly(model, ranges, config)).choices}
    assert chosen[names[0]] == "float32"
    assert {recipe for node, recipe in chosen.items() if node in names[1:]} <= {"w4a16-g128", "w8a8-dynamic"}


def test_without_convolutions_roles_of_rows_need_no_ranges():
    model = transformers.llama_layer()
    for recipe in ("mixed", "performance"):
        assert plan_of(quietly(model, None, ek.QuantConfig(recipe=recipe))).choices
    with pytest.raises(QuantizationError, match="there are no ranges"):
        ek.quantize(model, None, ek.QuantConfig(recipe="accuracy"))


# Decibels that small nets of random weights keep in any case, below what they kept when this was written.
FLOORS = {
    "auto": (25, 38),
    "mixed": (17, 38),
    "performance": (17, 38),
    "accuracy": (33, 55),
    "w8a8": (25, 38),
    "w8a16": (34, 55),
    "w8a8-dynamic": (30, 37),
    "w4a8-g32": (11, 23),
    "w4a8-g128": (8, 23),
    "w4a16-g128": (8, 23),
    "float32": (100, 100),
}


@pytest.mark.parametrize("recipe", FLOORS)
@pytest.mark.parametrize("kind", ["transformer", "cnn"])
def test_every_recipe_runs_as_compiled_steps_and_keeps_the_signal(kind, recipe, rng):
    transformer = kind == "transformer"
    model = vision_transformer() if transformer else small_cnn(21)
    x = f32(rng.normal(size=(6, 3, 16, 16))) if transformer else samples(rng)
    name = model.graph.input[0].name
    program = ek.compile(quietly(model, seen(model, x), ek.QuantConfig(recipe=recipe)), allow_host=False)
    session, reference = ek.InferenceSession(program), onnxruntime_session(model, optimized=False)
    want, found = (np.concatenate([s.run(None, {name: part[None]})[0] for part in x]) for s in (reference, session))
    db = sqnr_db(want, found)
    print(f"{kind}, {recipe}: {db:.1f} dB")
    assert db > FLOORS[recipe][0 if transformer else 1]


# ---- tables ----


def looked_up(opset=21, words=500, width=64):
    net = transformers.Net(3)
    ids = net.input("ids", (2, 7), TensorProto.INT64)
    x = net.op("Gather", net.weights(words, width), ids)
    return net.model(net.dense(net.norm(x, width), width, 32), opset=opset)


@pytest.mark.parametrize("opset", [17, 20, 21])
def test_a_table_takes_half_its_bytes_and_keeps_its_rows(tmp_path, opset):
    model = looked_up(opset)
    qdq, whole = (quietly(model, None, ek.QuantConfig(recipe=name)) for name in ("mixed", "performance"))
    onnx.checker.check_model(qdq, full_check=True)
    sizes = []
    for made in (qdq, whole):
        program = ek.compile(made, allow_host=False)
        program.save(tmp_path / "model.ekm")
        sizes.append((tmp_path / "model.ekm").stat().st_size)
    assert abs(sizes[1] - sizes[0] - 500 * 64 * 2) < 4000
    assert abs(len(whole.SerializeToString()) - len(qdq.SerializeToString()) - 500 * 64 * 2) < 4000
    feeds = feeds_of(model)
    program = ek.compile(qdq, allow_host=False)
    assert kinds(program).count("GATHER") == 2  # of bytes
    [want] = onnxruntime_session(whole, optimized=False).run(None, feeds)
    [in_floats] = onnxruntime_session(qdq, optimized=False).run(None, feeds)
    [found] = results_everywhere(program, feeds)
    assert sqnr_db(want, in_floats) > 70
    assert sqnr_db(in_floats, found) > 35
    [encoding] = [e for e in compute_encodings(model, None, ek.QuantConfig(recipe="mixed")).values() if e.bits == 16]
    assert encoding.axis is None


def test_only_rows_of_a_table_that_is_looked_up_at_run_time_count():
    model = looked_up()
    assert [label(node) for node in embedding_tables(prepared(model))] == ["v0_0"]
    net = transformers.Net(3)
    x = net.input("x", (4, 8))
    fixed = net.op("Gather", net.weights(9, 8), net.ints(0, 3, 4, 1))
    counted = net.op("Gather", net.weights(9, 8), net.input("others", (4,), TensorProto.INT64), axis=-2)
    columns = net.op("Gather", net.weights(8, 9), net.input("ids", (4,), TensorProto.INT64), axis=1)
    activation = net.op("Gather", x, net.input("rows", (4,), TensorProto.INT64))
    rest = net.op("Add", activation, net.op("Add", fixed, net.transpose(columns, 1, 0)))
    model = net.model(net.op("Add", rest, counted))
    assert [node.outputs[0].name for node in embedding_tables(prepared(model))] == [counted]


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("zero", [0, 77])
@pytest.mark.parametrize(("axis", "indices"), [(0, (3, 5)), (1, (6,)), (0, ())])
def test_a_table_of_16_bit_codes_is_exact(signed, zero, axis, indices):
    rng = np.random.default_rng(2)
    info = np.iinfo(np.int16 if signed else np.uint16)
    codes = rng.integers(info.min, info.max + 1, (20, 9)).astype(info.dtype)
    codes[0, :2] = info.min, info.max
    net = transformers.Net()
    ids = net.input("ids", indices, TensorProto.INT64)
    taken = net.op("Gather", net.const(codes, info.dtype), ids, axis=axis)
    y = net.op("DequantizeLinear", taken, net.const(0.003), net.const(zero, info.dtype))
    feeds = {"ids": rng.integers(-9, 9, indices)}
    program = ek.compile(net.model(net.op("Neg", y), opset=21), allow_host=False)
    [found] = results_everywhere(program, feeds)
    rows = np.take(codes, np.where(feeds["ids"] < 0, feeds["ids"] + codes.shape[axis], feeds["ids"]), axis=axis)
    assert np.array_equal(found, -((rows.astype(np.float32) - np.float32(zero)) * np.float32(0.003)))


def test_a_table_whose_codes_are_read_as_they_are_stays_on_the_host():
    net = transformers.Net()
    taken = net.op("Gather", net.const(np.ones((20, 9)), np.int16), net.input("ids", (3,), TensorProto.INT64))
    with pytest.raises(ek.errors.HostStepError, match="it reads types for which Gather has no kernel"):
        ek.compile(net.model(net.op("Cast", taken, to=TensorProto.FLOAT), opset=21), allow_host=False)


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("recipe", ["w8a8", "w8a16"])
@pytest.mark.parametrize("is_output", [True, False])
def test_a_layer_of_calibrated_codes_may_read_a_table(opset, recipe, is_output, rng):
    net = transformers.Net(3)
    table, rows = net.weights(50, 16), []
    for name in ("ids", "others"):
        rows.append(net.op("Gather", table, net.input(name, (2, 5), TensorProto.INT64)))
    y = net.dense(net.op("Relu", net.dense(rows[0], 16, 16)), 16, 8)
    model = net.model(net.op("Add", y, net.dense(rows[1], 16, 8)), *(rows[:1] if is_output else ()), opset=opset)
    feeds = {name: rng.integers(-50, 50, (2, 5)) for name in ("ids", "others")}
    config = ek.QuantConfig(recipe="mixed", first_layer=recipe)
    qdq = quietly(model, ek.Calibrator(model, progress=False).collect_many([feeds]).compute_ranges(), config)
    onnx.checker.check_model(qdq, full_check=True)
    assert sum(tensor.data_type == TensorProto.INT16 for tensor in qdq.graph.initializer) == 2  # codes, zero point
    found = results_everywhere(ek.compile(qdq, allow_host=False), feeds)
    for got, want in zip(found, onnxruntime_session(model).run(None, feeds), strict=True):
        assert sqnr_db(want, got) > 30


def test_a_table_that_a_product_reads_too_has_an_encoding_of_each():
    """Tied embeddings: rows on the way in, columns on the way out."""
    net = transformers.Net(3)
    table = net.weights(96, 64)
    x = net.op("Gather", table, net.input("ids", (2, 7), TensorProto.INT64))
    graph = net.model(net.op("MatMul", net.norm(x, 64), net.transpose(table, 1, 0)), opset=21)
    graph.graph.node[-1].name = "head"
    encodings = compute_encodings(graph, None, ek.QuantConfig(recipe="mixed"))
    assert sorted(encoding.bits for encoding in encodings.values()) == [8, 16]
    assert ek.compile(ek.quantize(graph, None, ek.QuantConfig(recipe="mixed")), allow_host=False)
