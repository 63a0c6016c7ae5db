"""The recipes of 4-bit weights: "w4a8-g32" and its like, with rows of 8 bits, and "w4a16-g128", of 16."""

import warnings

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import edgekern as ek
from edgekern.errors import EdgekernWarning, QuantizationError
from edgekern.quantization import compute_encodings, plan_of
from edgekern.quantization.four_bits import groups_of, quantize_groups
from edgekern.quantization.methods import group_rounding_of
from test_dynamic_layers import layer
from test_float_nets import feeds_of, kinds, net, transformer

from float_models import f32, ranges_of, samples, small_cnn, sqnr_db
from graphs import onnxruntime_session, results_everywhere
from reference import int4

G32, WIDE = ek.QuantConfig(recipe="w4a8-g32"), ek.QuantConfig(recipe="w4a16-g128")
RNG = np.random.default_rng(13)
OPSETS = [13, 17, 20, 21]


# ---- the codes ----


def real(found):
    """What grouped weights stand for, (columns, k)."""
    k = found.codes.shape[1]
    zero = np.zeros(found.scale.shape) if found.zero is None else found.zero
    scale, zero = (np.repeat(part, found.group, axis=1)[:, :k] for part in (found.scale, zero))
    return (found.codes.astype(np.float64) - zero) * scale


@given(
    columns=st.integers(1, 9),
    k=st.integers(1, 200),
    group=st.sampled_from([32, 64, 128]),
    shift=st.sampled_from([0.0, 0.7, 5.0]),
    size=st.floats(-60, 60),
    seed=st.integers(0, 99),
)
def test_codes_are_the_nearest_of_their_group(columns, k, group, shift, size, seed):
    rng = np.random.default_rng(seed)
    weights = f32((rng.normal(size=(columns, k)) + shift) * 2.0**size)
    found = quantize_groups(weights, group)
    assert found.scale.shape == (columns, -(-k // group))
    assert found.codes.min() >= (-7 if found.zero is None else -8)
    assert found.codes.max() <= 7
    steps = np.repeat(found.scale, group, axis=1)[:, :k]
    # Half a step; a scale is rounded to eleven bits, and a zero point to a whole, which moves both ends by as much.
    assert (np.abs(real(found) - weights) <= steps * (0.51 if found.zero is None else 1.01)).all()
    assert np.array_equal(int4.stored_scale(found.scale), found.scale)


@pytest.mark.parametrize("symmetric", [True, False])
def test_zero_points_are_there_where_they_lessen_the_error(symmetric):
    """Levels from -7 to 7 are symmetric; from 0 to 15 they are not."""
    levels = RNG.integers(-7, 8, (5, 64)) if symmetric else RNG.integers(0, 16, (5, 64))
    levels[:, ::16], levels[:, 1::16] = (7, -7) if symmetric else (15, 0)
    weights = f32(levels * 0.25)
    found = quantize_groups(weights, 32)
    assert (found.zero is None) == symmetric
    assert np.array_equal(real(found), weights)


def test_columns_of_next_to_nothing_do_not_spoil_the_others():
    """Kernels hold scales as float16 in one unit."""
    weights = f32(RNG.normal(size=(4, 64)))
    weights[1], weights[2] = 0, weights[2] * 1e-30
    model = net([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights.T.copy()}, {"x": (3, 64)}, ["y"])
    program = ek.compile(ek.quantize(model, None, G32), allow_host=False)
    assert kinds(program) == ["GEMM_GROUPS"]
    [found] = results_everywhere(program, feeds_of(model))
    assert not found[:, 1:3].any()
    assert sqnr_db(feeds_of(model)["x"] @ weights.T, found) > 15


def test_a_recipe_says_its_groups_and_bits():
    assert groups_of("w4a8-g32") == (32, 8)
    assert groups_of("w4a16-g128") == (128, 16)
    assert groups_of("w8a8-dynamic") is groups_of("mixed") is None


# ---- the file, and what becomes of it ----


def product(kind, opset, k=128, n=40):
    """A model of one product, and the float rows times weights that it is."""
    rng = np.random.default_rng(5)
    w, c = f32(rng.normal(size=(k, n))), f32(rng.normal(size=n))
    shape, strides = (6, k), {}
    if kind == "MatMul":
        nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "product")]
    elif kind.startswith("Gemm"):
        turned = kind == "Gemm of rows"
        nodes = [helper.make_node("Gemm", ["x", "w", "c"], ["y"], "product", transB=int(turned))]
        w = f32(w.T) if turned else w
    else:
        sides = (k, 1, 1) if kind == "pointwise" else (k // 16, 4, 4)
        shape, strides = (1, sides[0], 2 * sides[1], 3 * sides[2]), {"strides": list(sides[1:])}
        nodes = [helper.make_node("Conv", ["x", "w", "c"], ["y"], "product", **strides)]
        w = f32(w.T.reshape(n, *sides))
    weights = {"w": w} | ({} if kind == "MatMul" else {"c": c})
    return net(nodes, weights, {"x": shape}, ["y"], opset=opset)


@pytest.mark.parametrize("recipe", ["w4a8-g32", "w4a8-g128", "w4a16-g64"])
@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", ["MatMul", "Gemm", "Gemm of rows", "pointwise", "patches"])
def test_a_product_has_codes_in_the_file_and_in_the_program(kind, opset, recipe):
    model, config = product(kind, opset), ek.QuantConfig(recipe=recipe)
    qdq = ek.quantize(model, None, config)
    onnx.checker.check_model(qdq, full_check=True)
    program = ek.compile(qdq, allow_host=False)
    [step] = [step for step in program.index.steps if step.kind.name == "GEMM_GROUPS"]
    size, bits = groups_of(recipe)
    assert (step.arguments["group"], step.arguments["activation_bits"]) == (size, bits)
    assert "GEMM_F32" not in kinds(program)
    assert {what for what, macs in program.multiply_adds.items() if macs} == {f"{bits} bits"}
    assert next(node.runs for node in program.nodes if node.name == "product") == f"{bits} bits"
    feeds = feeds_of(model)
    [want], [in_floats] = (onnxruntime_session(m, optimized=False).run(None, feeds) for m in (model, qdq))
    [found] = results_everywhere(program, feeds)
    assert sqnr_db(in_floats, found) > (38 if bits == 8 else 75)
    assert sqnr_db(want, found) > 17
    assert [(c.node, c.recipe) for c in plan_of(qdq).choices] == [("product", recipe)]


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("kind", ["MatMul", "Gemm of rows", "patches"])
def test_what_the_program_multiplies_by_is_what_the_encoding_says(kind, opset):
    model = product(kind, opset)
    encoding = compute_encodings(model, None, G32)["w"]
    assert (encoding.bits, encoding.group_size) == (4, 32)
    weights = numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "w"))
    matrix = weights if kind == "MatMul" else weights.reshape(len(weights), -1)
    codes = encoding.quantize(matrix)
    scale, zero = (
        np.repeat(part, 32, axis=encoding.axis).astype(np.float32) for part in (encoding.scale, encoding.zero_point)
    )
    want = (codes.astype(np.float32) - zero) * scale
    program = ek.compile(ek.quantize(model, None, G32), allow_host=False)
    [step] = [step for step in program.index.steps if step.kind.name == "GEMM_GROUPS"]
    blob = program.index.blobs[step.blobs[0]]
    packed = program.container.blobs[blob.offset : blob.offset + blob.bytes]
    a = step.arguments
    values, halves, zeros = int4.unpack(packed, a["columns"], a["k"], 32, asymmetric=bool(a["zero_points"]))
    shift = 0 if zeros is None else np.repeat(zeros.astype(np.float32), 32, axis=0)
    found = (values.astype(np.float32) - shift) * np.repeat(
        halves.astype(np.float32) * np.float32(a["unit"]), 32, axis=0
    )
    assert np.array_equal(found if kind == "MatMul" else found.T, want)


@pytest.mark.parametrize("recipe", ["w4a8-g32", "w4a8-g64", "w4a8-g128", "w4a16-g32", "w4a16-g64", "w4a16-g128"])
@pytest.mark.parametrize("opset", [17, 21])
def test_a_weight_takes_four_bits_in_both_files(tmp_path, recipe, opset):
    k, n = 512, 512
    model = product("MatMul", opset, k, n)
    qdq = ek.quantize(model, None, ek.QuantConfig(recipe=recipe))
    groups = k // groups_of(recipe).size * n
    zeros = any(tensor.name.endswith("zero_point") for tensor in qdq.graph.initializer)
    codes, scales = k * n // 2, groups * 4
    assert codes + scales <= len(qdq.SerializeToString()) < codes + scales + zeros * groups // 2 + 4000
    program = ek.compile(qdq, allow_host=False)
    program.save(tmp_path / "model.ekm")
    halves = groups * 2 * (1 + zeros)  # scales and offsets as float16
    assert codes + halves <= (tmp_path / "model.ekm").stat().st_size < codes + halves + 4 * n + 8000


def test_a_transformer_layer_stays_as_close_as_its_weights():
    model = transformer(tokens=16, width=64, heads=4)
    qdq, feeds = ek.quantize(model, None, G32), feeds_of(model)
    program = ek.compile(qdq, allow_host=False)
    assert kinds(program).count("GEMM_GROUPS") == 6
    assert not {"GEMM_F32", "GEMM_DYNAMIC"} & set(kinds(program))
    [want], [in_floats] = (onnxruntime_session(m, optimized=False).run(None, feeds) for m in (model, qdq))
    [found] = results_everywhere(program, feeds)
    assert sqnr_db(want, found) > 12
    assert sqnr_db(in_floats, found) > 33
    [wide] = results_everywhere(ek.compile(ek.quantize(model, None, WIDE), allow_host=False), feeds)
    [in_floats] = onnxruntime_session(ek.quantize(model, None, WIDE), optimized=False).run(None, feeds)
    assert sqnr_db(in_floats, wide) > 70


def test_what_a_product_finishes_stays_with_it():
    weights = {"w": f32(RNG.normal(size=(32, 40))), "c": f32(RNG.normal(size=40))}
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Add", ["m", "c"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"]),
    ]
    model = net(nodes, weights, {"x": (7, 32)}, ["y"])
    assert kinds(ek.compile(ek.quantize(model, None, G32), allow_host=False)) == ["GEMM_GROUPS"]


# ---- what other layers get ----


@pytest.mark.parametrize(("opset", "kind"), [(17, "GEMM_DYNAMIC"), (21, "GEMM_GROUPS")])
def test_a_depth_that_groups_do_not_divide_needs_blocks(opset, kind):
    model = product("MatMul", opset, k=100)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        qdq = ek.quantize(model, None, G32)
    assert kinds(ek.compile(qdq, allow_host=False)) == [kind]
    eight_bits = opset == 17
    assert [str(w.message).startswith("quantize: 1 product has 8-bit weights") for w in said] == [True] * eight_bits
    assert plan_of(qdq).choices[0].recipe == ("w8a8-dynamic" if eight_bits else "w4a8-g32")


def test_recurrent_layers_have_8_bit_weights_and_it_is_said():
    with pytest.warns(EdgekernWarning, match=r"1 product has 8-bit weights .*LSTM 'LSTM'"):
        qdq = ek.quantize(layer("LSTM"), None, G32)
    assert "RECURRENT_DYNAMIC" in kinds(ek.compile(qdq, allow_host=False))


def test_other_convolutions_are_static_where_there_are_ranges_and_float_where_there_are_none(rng):
    model, x = small_cnn(21), samples(rng)
    with pytest.warns(
        EdgekernWarning, match=r"2 convolutions share numbers .* 'w8a8' instead of 'w4a8-g32'.*Conv 'n0'"
    ):
        qdq = ek.quantize(model, ranges_of(model, x), G32)
    chosen = {c.node: c.recipe for c in plan_of(qdq).choices}
    assert chosen == {"n0": "w8a8", "dw": "w8a8", "c2": "w4a8-g32", "y": "w4a8-g32"}
    program = ek.compile(qdq, allow_host=False)
    assert {"CONV", "DEPTHWISE", "GEMM_GROUPS"} <= set(kinds(program))
    assert "CONV_F32" not in kinds(program)
    with pytest.warns(EdgekernWarning, match="2 products stay float32, because recipes of rows are for"):
        alone = ek.quantize(model, None, G32)
    assert [c.recipe for c in plan_of(alone).choices] == ["float32", "float32", "w4a8-g32", "w4a8-g32"]


def test_a_rule_gives_4_bits_to_one_product_of_a_static_model():
    weights = {name: f32(RNG.normal(size=(64, 64)) / 8) for name in "abc"}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["h"], "first"),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], ["s"], "second"),
        helper.make_node("Relu", ["s"], ["t"]),
        helper.make_node("MatMul", ["t", "c"], ["y"], "third"),
    ]
    model = net(nodes, weights, {"x": (16, 64)}, ["y"])
    x = f32(RNG.normal(size=(16, 64)))
    ranges, [want] = ranges_of(model, x), onnxruntime_session(model).run(None, {"x": x})
    for recipe in ("w4a16-g128", "w4a8-g32"):
        config = ek.QuantConfig(recipe="w8a8", overrides={"second": recipe})
        qdq = ek.quantize(model, ranges, config)
        assert {c.node: c.recipe for c in plan_of(qdq).choices} == {"first": "w8a8", "second": recipe, "third": "w8a8"}
        program = ek.compile(qdq, allow_host=False)
        assert kinds(program).count("GEMM_GROUPS") == 1
        assert sqnr_db(want, results_everywhere(program, {"x": x})[0]) > 16


@pytest.mark.parametrize("end", ["first", "last"])
def test_the_first_and_the_last_layer_may_have_a_recipe_of_their_own(end, rng):
    model, x = small_cnn(), samples(rng)
    ranges = ranges_of(model, x, method="max")
    names = ["n0", "dw", "c2", "y"]
    config = ek.QuantConfig(recipe="w8a8", **{f"{end}_layer": "float32"})
    chosen = {c.node: c.recipe for c in plan_of(ek.quantize(model, ranges, config)).choices}
    own = "n0" if end == "first" else "y"
    assert chosen == {name: "float32" if name == own else "w8a8" for name in names}
    for rule in (own if end == "last" else "c0", "Gemm" if end == "last" else "Conv"):
        ruled = ek.QuantConfig(recipe="w8a8", overrides={rule: "w8a16"}, **{f"{end}_layer": "float32"})
        chosen = {c.node: c.recipe for c in plan_of(ek.quantize(model, ranges, ruled)).choices}
        assert chosen[own] == "w8a16"
    assert ek.compile(ek.quantize(model, ranges, config), allow_host=False)


@pytest.mark.parametrize("recipe", ["w4a8-g32", "w8a8-dynamic"])
def test_rules_that_leave_a_recipe_nothing_are_told(recipe):
    weights = {"w": f32(np.ones((32, 4)))}
    model = net([helper.make_node("MatMul", ["x", "w"], ["y"], name="only")], weights, {"x": (1, 32)}, ["y"])
    with pytest.raises(QuantizationError, match=f"'{recipe}' is for; rules leave MatMul 'only' float32"):
        ek.quantize(model, None, ek.QuantConfig(recipe=recipe, keep_float=["only"]))


def test_a_model_without_layers_has_no_first_one(rng):
    model = net([helper.make_node("Relu", ["x"], ["y"])], {}, {"x": (2, 3)}, ["y"])
    with pytest.raises(QuantizationError, match="first_layer is 'w8a16', and model has no layer with constant weights"):
        ek.quantize(model, ranges_of(model, f32(np.ones((2, 3)))), ek.QuantConfig(first_layer="w8a16"))


def test_weights_that_are_no_numbers_are_refused_by_name():
    model = net(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": f32(np.full((32, 4), np.nan))}, {"x": (1, 32)}, "y"
    )
    with pytest.raises(QuantizationError, match="'w' holds NaN or Inf"):
        ek.quantize(model, None, G32)


def test_the_layers_of_such_a_file_can_be_looked_at():
    model = transformer(tokens=8, width=32, heads=2)
    feeds = feeds_of(model)
    report = ek.compare(model, ek.compile(ek.quantize(model, None, G32), allow_host=False), [feeds])
    assert sum(row.path == "int4" for row in report.rows) == 6
    assert min(row.own_db for row in report.rows if row.path == "int4") > 12
    found = ek.sensitivity(model, None, [feeds], config=G32)
    assert len(found.rows) == 6
    assert all(12 < row.sqnr_db < 60 for row in found.rows)


# ---- group_scales ----


@pytest.mark.parametrize("opset", [17, 21])
@pytest.mark.parametrize("recipe", ["w4a8-g32", "w4a16-g128"])
def test_scales_of_groups_are_chosen_as_the_configuration_says(opset, recipe):
    weights = f32(RNG.standard_t(3, (128, 6)))
    model = net([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights}, {"x": (3, 128)}, ["y"], opset=opset)
    errors, groups = {}, int(recipe.partition("g")[2])
    for scales in ("max", "mse", "hqq"):
        config = ek.QuantConfig(recipe=recipe, group_scales=scales)
        [encoding] = compute_encodings(model, None, config).values()
        way = group_rounding_of(config)(weights.T.copy(), groups)
        assert np.array_equal(encoding.scale, way.scale.T)
        program = ek.compile(ek.quantize(model, None, config), allow_host=False)
        [found] = results_everywhere(program, feeds_of(model))
        assert sqnr_db(feeds_of(model)["x"] @ f32(real(way)).T, found) > (35 if recipe.startswith("w4a8") else 60)
        errors[scales] = np.square(real(way) - weights.T).sum()
    assert errors["mse"] < errors["max"]
    assert len(set(errors.values())) == 3


def test_a_way_to_choose_scales_that_there_is_not_is_refused():
    with pytest.raises(ek.errors.ArgumentValueError, match=r"group_scales must be one of .*'hqq'.*, got 'minmax'"):
        ek.QuantConfig(group_scales="minmax")
