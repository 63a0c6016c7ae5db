"""quantize_to: as many layers undone as the limit asks for, each trial counted."""

import math

import numpy as np
import pytest

import edgekern as ek
from edgekern.errors import ArgumentTypeError, ArgumentValueError, EdgekernWarning
from edgekern.quantization import plan_of
from test_sensitivity import DATA, chain, ranges_of, residual

MODELS = {"chain": chain(), "residual": residual()}


class Scores:
    """Signal to noise of what a model gives, as a share of 100 dB, and how often it was asked."""

    def __init__(self, model):
        self.calls = 0
        self.real = None

    def __call__(self, run):
        self.calls += 1
        found = np.concatenate([next(iter(run(feeds).values())) for feeds in DATA]).astype(np.float64)
        if self.real is None:
            self.real = found
            return 1.0
        noise = np.square(found - self.real).sum()
        return 1.0 if noise == 0 else min(10 * math.log10(np.square(self.real).sum() / noise), 100.0) / 100


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


def quantize_to(model, max_drop, method="mse", **given):
    given.setdefault("evaluate", Scores(model))
    return ek.quantize_to(model, ranges_of(model, DATA, method), DATA, max_drop=max_drop, progress=False, **given)


def test_a_limit_that_all_keep_undoes_nothing(model):
    scores = Scores(model)
    done = quantize_to(model, 0.9, evaluate=scores)
    assert done.passed
    assert scores.calls == 2  # the float model, and the one with all in 8 bits
    assert [row.what for row in done.rows] == ["all in w8a8"]
    assert done.plan.choices == plan_of(done.model).choices
    assert plan_of(done.model).counts() == {"w8a8": len(plan_of(done.model).choices)}


@pytest.mark.parametrize("max_drop", [0.6, 0.55, 0.5, 0.4])
def test_the_limit_is_kept_in_a_number_of_trials_that_was_told(model, max_drop):
    scores = Scores(model)
    done = quantize_to(model, max_drop, evaluate=scores)
    assert done.passed
    assert scores.calls == len(done.rows) + 1
    for before, after in zip(done.rows[1:], done.rows[2:], strict=False):
        assert after.left < before.left
    assert not done.rows or done.rows[-1].left >= 0
    session = ek.InferenceSession(ek.compile(done.model, batch=4))
    [name] = [info.name for info in session.get_outputs()]
    found = Scores(model)
    found.real = scores.real
    assert done.float_score - found(lambda feeds: {name: session.run(None, feeds)[0]}) <= max_drop + 1e-6
    assert done.score == pytest.approx(found(lambda feeds: {name: session.run(None, feeds)[0]}), abs=1e-4)


def test_fewer_layers_are_undone_than_the_limit_makes_necessary(model):
    strict, loose = quantize_to(model, 0.5), quantize_to(model, 0.6)
    assert strict.plan.counts().get("w8a8", 0) <= loose.plan.counts().get("w8a8", 99)
    passed = [row for row in strict.rows if row.passed]
    assert passed[-1].undone == min(row.undone for row in passed)


def test_what_was_not_needed_is_put_back():
    """Of two layers that the bisection undid, the second alone decides."""
    model = MODELS["chain"]
    worst = [row.name for row in ek.sensitivity(model, ranges_of(model), DATA, ek.QuantConfig(recipe="w8a8")).rows]

    def evaluate(run):
        evaluate.calls += 1
        return 1.0

    evaluate.calls = 0
    done = quantize_to(model, 0.0, evaluate=evaluate)
    assert done.passed
    assert evaluate.calls == 2

    class Pretends:
        """The third worst layer, and no other, must be a float."""

        asked = 0

        def __call__(self, run):
            Pretends.asked += 1
            return 1.0 if Pretends.asked == 1 or self.plan.get(worst[2]) == "float32" else 0.0

    pretends = Pretends()
    pretends.plan = {}
    from edgekern.analysis import control_accuracy

    compiled = control_accuracy.Quantizer.compiled

    def remembers(self, config):
        pretends.plan = {rule.replace("[", "").replace("]", ""): recipe for rule, recipe in config.overrides.items()}
        return compiled(self, config)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control_accuracy.Quantizer, "compiled", remembers)
        done = quantize_to(model, 0.5, evaluate=pretends)
    assert done.passed
    assert [choice.node for choice in done.plan.choices if choice.recipe == "float32"] == [worst[2]]
    assert {"without " + worst[0], "without " + worst[1]} <= {row.what for row in done.rows}
    none_back = quantize_to(model, 0.5, evaluate=Scores(model), most_put_back=0)
    assert not any(row.what.startswith("without") for row in none_back.rows)


def test_labels_are_counted_without_a_function(model):
    [name] = [value.name for value in model.graph.output]
    session = ek.InferenceSession(ek.compile(model, batch=4))
    labels = np.concatenate([session.run([name], feeds)[0].argmax(axis=1) for feeds in DATA])
    done = quantize_to(model, 0.0, evaluate=None, labels=labels)
    assert done.float_score == 1.0
    assert done.passed
    assert "within" in str(done)
    assert '"passed": true' in done.to_json()


def test_sixteen_bits_may_not_suffice_and_say_so():
    model = MODELS["chain"]
    with pytest.warns(EdgekernWarning, match=r"quantize_to: the model loses .*take undo='float32'"):
        done = quantize_to(model, 0.05, "max", undo="w8a16")
    assert not done.passed
    assert "OVER" in str(done)


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"max_drop": math.nan}, ArgumentValueError, "max_drop must be a finite number"),
        ({"max_drop": "1"}, ArgumentTypeError, "max_drop must be a number"),
        ({"max_drop": True}, ArgumentTypeError, "max_drop must be a number"),
        ({"recipe": "float32"}, ArgumentValueError, "recipe must be one of"),
        ({"undo": "w8a8"}, ArgumentValueError, "undo must be one of"),
        ({"evaluate": None}, ArgumentValueError, "evaluate or labels must be given"),
        ({"evaluate": 3}, ArgumentTypeError, "evaluate must be a function"),
        ({"evaluate": lambda run: math.nan}, ArgumentValueError, "what evaluate returns must be a number, got NaN"),
        ({"evaluate": lambda run: math.inf}, ArgumentValueError, "what evaluate returns for the float model must be"),
        ({"most_put_back": -1}, ArgumentValueError, "most_put_back must be at least 1"),
    ],
)
def test_refusals(given, kind, said):
    with pytest.raises(kind, match=f"quantize_to: {said}"):
        quantize_to(MODELS["chain"], **({"max_drop": 0.1} | given))
