"""Plan files: written, edited, read, applied, and refused where they are damaged."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

import edgekern as ek
from edgekern.errors import ArgumentValueError, ArtifactError, QuantizationError
from edgekern.quantization import Choice, plan_of
from test_sensitivity import chain, ranges_of, residual

from graphs import Graph, feeds_of

figures = st.none() | st.floats(-1e9, 1e9)
choices = st.builds(
    Choice,
    node=st.text(min_size=1, max_size=8),
    op=st.sampled_from(["Conv", "Gemm", ""]),
    recipe=st.sampled_from(["w8a8", "w8a16", "w4a8-g32", "float32"]),
    w8a8_db=figures,
    loss=figures,
    cost=figures,
)


@given(
    st.lists(choices, max_size=5, unique_by=lambda row: row.node),
    st.sampled_from(["auto", "w8a8", "float32"]),
    st.none() | st.just("abc"),
)
def test_a_plan_that_is_read_is_the_one_that_was_written(tmp_path_factory, rows, base, model_hash):
    plan = ek.Plan(tuple(rows), base, model_hash, {"max_ms": 3.2}, {"ms": 3.1, "db": 27.0})
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    assert ek.Plan.load(path) == plan
    assert len(str(plan).splitlines()) >= 1 + len(rows)
    assert len(path.read_text().splitlines()) == 10 + max(len(rows), 1)  # a line a layer


@pytest.mark.parametrize("model", [chain(), residual()], ids=["chain", "residual"])
def test_the_plan_of_a_model_writes_it_again(model, tmp_path):
    ranges = ranges_of(model)
    qdq = ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8", last_layer="float32"))
    plan_of(qdq).save(tmp_path / "plan.json")
    again = ek.quantize(model, ranges, ek.Plan.load(tmp_path / "plan.json").config(model))
    assert plan_of(again).choices == plan_of(qdq).choices
    assert [node.op_type for node in again.graph.node] == [node.op_type for node in qdq.graph.node]


def test_an_edited_plan_is_followed(tmp_path):
    model = chain()
    ranges = ranges_of(model)
    plan_of(ek.quantize(model, ranges, ek.QuantConfig(recipe="w8a8"))).save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text())
    content["layers"] = [{"node": content["layers"][1]["node"], "recipe": "float32"}]
    (tmp_path / "plan.json").write_text(json.dumps(content))
    plan = ek.Plan.load(tmp_path / "plan.json")
    found = plan_of(ek.quantize(model, ranges, plan.config(model)))
    assert [choice.recipe for choice in found.choices] == ["w8a8", "float32", "w8a8", "w8a8"]


def test_a_node_that_is_called_like_an_operator_or_a_pattern_is_meant_alone():
    g = Graph()
    y = g.op("Conv", g.input("x", ("N", 3, 6, 6)), g.const(g.rng.normal(0, 1, (4, 3, 3, 3)), "float32"))
    y = g.op("Conv", g.op("Relu", y), g.const(g.rng.normal(0, 1, (4, 4, 1, 1)), "float32"))
    y = g.op("Conv", g.op("Relu", y), g.const(g.rng.normal(0, 1, (4, 4, 1, 1)), "float32"))
    model = g.model(y)
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    for node, name in zip(convs, ["Conv", "a[0]*?", "a0b"], strict=True):
        node.name = name
    ranges = ek.Calibrator(model, progress=False).collect(feeds_of(model)).compute_ranges()
    for at, node in enumerate(convs):
        config = ek.Plan((Choice(node.name, "Conv", "float32"),)).config()
        found = [choice.recipe for choice in plan_of(ek.quantize(model, ranges, config)).choices]
        assert found == ["float32" if at == other else "w8a8" for other in range(3)]


def test_a_plan_of_other_nodes_or_of_another_model_is_refused():
    model = chain()
    ranges = ranges_of(model)
    with pytest.raises(QuantizationError, match="names no node of the model"):
        ek.quantize(model, ranges, ek.Plan((Choice("elsewhere", "Conv", "w8a8"),)).config())
    with pytest.raises(QuantizationError, match=r"plan is of another model \(hash abc\.\.\."):
        ek.Plan((), model_hash="abc").config(model)
    with pytest.raises(ArgumentValueError, match="recipe must be one of"):
        ek.Plan((), base="w9a9").config()


GOOD = {"format": "edgekern.plan", "version": 1, "base": "w8a8", "layers": [{"node": "a", "recipe": "w8a8"}]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "{}",
        "[" * 100000,
        json.dumps(GOOD | {"format": "edgekern.ranges"}),
        json.dumps(GOOD | {"version": 2}),
        json.dumps(GOOD | {"base": "w9a9"}),
        json.dumps(GOOD | {"layers": [{"node": "a", "recipe": "w9a9"}]}),
        json.dumps(GOOD | {"layers": [{"node": "a", "recipe": "auto"}]}),
        json.dumps(GOOD | {"layers": [{"node": "", "recipe": "w8a8"}]}),
        json.dumps(GOOD | {"layers": [{"node": 3, "recipe": "w8a8"}]}),
        json.dumps(GOOD | {"layers": [{"recipe": "w8a8"}]}),
        json.dumps(GOOD | {"layers": [{"node": "a", "recipe": ["w8a8"]}]}),
        json.dumps(GOOD | {"layers": 3}),
        json.dumps(GOOD | {"budget": {"max_ms": math.nan}}),
        json.dumps(GOOD | {"seen": ["ms"]}),
        json.dumps(GOOD | {"seen": {"ms": 10**400}}),
        json.dumps(GOOD | {"layers": [{"node": "a", "recipe": "w8a8"}, {"node": "a", "recipe": "float32"}]}),
        json.dumps(GOOD | {"layers": [{"node": "a", "recipe": "w8a8", "loss": "much"}]}),
    ],
)
def test_damaged_plans_are_refused(tmp_path, text):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(GOOD))
    assert ek.Plan.load(path).counts() == {"w8a8": 1}
    path.write_text(text)
    with pytest.raises(QuantizationError, match=r"Plan"):
        ek.Plan.load(path)


def test_what_is_no_plan_at_all_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError):
        ek.Plan.load(tmp_path / "none.json")
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(ArtifactError, match=r"Plan\.load"):
        ek.Plan.load(tmp_path / "huge.json")
