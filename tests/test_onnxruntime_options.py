"""Options and providers as programs for onnxruntime give them: honored, without effect, or refused."""

import copy
import pickle

import onnxruntime
import pytest

import edgekern as ek
from edgekern.errors import (
    ArgumentTypeError,
    ArgumentValueError,
    EdgekernWarning,
    RunTerminatedError,
    UnknownOptionError,
)

from graphs import Graph, feeds_of, two_products

CPU = "CPUExecutionProvider"


@pytest.fixture(scope="module")
def model():
    return two_products()


@pytest.fixture(scope="module")
def program(model):
    return ek.compile(model, allow_host=False)


@pytest.fixture(scope="module")
def feeds(model):
    return feeds_of(model)


@pytest.fixture
def session(program):
    return ek.InferenceSession(program, num_threads=1)


def attributes(kind):
    """What onnxruntime's options have that holds a value."""
    made = kind()
    return {name: getattr(made, name) for name in dir(made) if name[0] != "_" and not callable(getattr(made, name))}


@pytest.mark.parametrize("name", ["SessionOptions", "RunOptions"])
def test_every_attribute_of_onnxruntime_is_there_with_its_default(name):
    ours = getattr(ek, name)()
    for attribute, value in attributes(getattr(onnxruntime, name)).items():
        assert getattr(ours, attribute) == getattr(value, "value", value), attribute


@pytest.mark.parametrize("name", ["GraphOptimizationLevel", "ExecutionMode", "ExecutionOrder"])
def test_enums_have_onnxruntimes_members(name):
    theirs = getattr(onnxruntime, name).__members__
    assert {key: int(member) for key, member in getattr(ek, name).__members__.items()} == {
        key: member.value for key, member in theirs.items()
    }


@pytest.mark.parametrize("kind", [ek.SessionOptions, ek.RunOptions])
@pytest.mark.parametrize("name", ["intra_op_threads", "register_custom_ops_library", "add_active_adapter"])
def test_what_is_no_option_is_refused(kind, name):
    options = kind()
    assert not hasattr(options, name)
    for touch in (lambda: getattr(options, name), lambda: setattr(options, name, 1)):
        with pytest.raises(UnknownOptionError, match=f"edgekern has no option '{name}'; it has .*log_severity_level"):
            touch()


WRONG = {
    "threads": ("intra_op_num_threads", -1, ArgumentValueError, "must be an integer of at least 0, got -1"),
    "bool": ("inter_op_num_threads", True, ArgumentValueError, "must be an integer of at least 0, got True"),
    "text": ("intra_op_num_threads", "two", ArgumentTypeError, "must be an integer, got str 'two'"),
    "level": ("graph_optimization_level", 7, ArgumentValueError, "must be one of ORT_DISABLE_ALL, .*, got 7"),
    "mode": ("execution_mode", "parallel", ArgumentValueError, "must be one of ORT_SEQUENTIAL, ORT_PARALLEL"),
    "flag": ("enable_profiling", "yes", ArgumentTypeError, "must be True or False"),
    "severity": ("log_severity_level", 5, ArgumentValueError, r"must be 0 \(verbose\) to 4 \(fatal\)"),
    "prefix": ("profile_file_prefix", "a\0b", ArgumentValueError, "null byte"),
    "file": ("optimized_model_filepath", "m.onnx", ArgumentValueError, "edgekern writes no optimized model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_values_are_checked_where_they_are_set(name):
    attribute, value, error, message = WRONG[name]
    options = ek.SessionOptions()
    before = getattr(options, attribute)
    with pytest.raises(error, match=f"SessionOptions: {attribute} .*{message}"):
        setattr(options, attribute, value)
    assert getattr(options, attribute) == before


def test_threads_are_honored(program):
    options = ek.SessionOptions()
    options.intra_op_num_threads = 2
    session = ek.InferenceSession(program, options)
    assert (session.num_threads, session.get_session_options().intra_op_num_threads) == (2, 2)
    options.intra_op_num_threads = 1  # the session has a copy
    assert session.get_session_options().intra_op_num_threads == 2
    assert ek.InferenceSession(program, options, num_threads=1).num_threads == 1
    with pytest.raises(ArgumentValueError, match=r"num_threads must be sess_options\.intra_op_num_threads, 1, got 2"):
        ek.InferenceSession(program, options, num_threads=2)
    assert ek.InferenceSession(program, ek.SessionOptions(), num_threads=2).num_threads == 2
    assert pickle.loads(pickle.dumps(session)).num_threads == 2


def test_entries_are_kept_and_those_that_change_results_are_refused():
    options = ek.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    with pytest.raises(ArgumentValueError, match="there is no entry 'nothing'"):
        options.get_session_config_entry("nothing")
    with pytest.raises(ArgumentValueError, match=r"edgekern cannot do 'session\.set_denormal_as_zero' = '1'"):
        options.add_session_config_entry("session.set_denormal_as_zero", "1")
    options.add_session_config_entry("session.set_denormal_as_zero", "0")
    with pytest.raises(ArgumentTypeError, match="value must be a string, got int 1"):
        options.add_session_config_entry("session.dynamic_block_base", 1)
    run = ek.RunOptions()
    run.add_run_config_entry("gpu_graph_id", "-1")
    assert run.get_run_config_entry("gpu_graph_id") == "-1"


def test_options_of_onnxruntime_itself_are_read(program, feeds):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    found = ek.InferenceSession(program, options).get_session_options()
    assert (found.intra_op_num_threads, found.graph_optimization_level.name) == (2, "ORT_ENABLE_BASIC")
    options.optimized_model_filepath = "m.onnx"
    with pytest.raises(ArgumentValueError, match="optimized_model_filepath must be empty"):
        ek.InferenceSession(program, options)
    options.optimized_model_filepath = ""
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    with pytest.raises(ArgumentValueError, match="edgekern cannot do"):
        ek.InferenceSession(program, options)
    run = onnxruntime.RunOptions()
    ek.InferenceSession(program).run(None, feeds, run)
    run.terminate = True
    with pytest.raises(RunTerminatedError):
        ek.InferenceSession(program).run(None, feeds, run)


@pytest.mark.parametrize("wrong", [3, {}, "fast", ek.RunOptions(), ek.SessionOptions, object()])
def test_other_things_are_no_options(program, session, feeds, wrong):
    with pytest.raises(ArgumentTypeError, match=r"sess_options must be an edgekern\.SessionOptions, got"):
        ek.InferenceSession(program, wrong)
    if not isinstance(wrong, ek.RunOptions):
        with pytest.raises(ArgumentTypeError, match=r"run: run_options must be an edgekern\.RunOptions, got"):
            session.run(None, feeds, wrong)


def test_free_dimensions_must_be_those_of_the_program(program):
    options = ek.SessionOptions()
    options.add_free_dimension_override_by_name("batch", 2)
    options.add_free_dimension_override_by_denotation("DATA_CHANNEL", 6)
    ek.InferenceSession(program, options)
    options.add_free_dimension_override_by_name("batch", 5)
    with pytest.raises(ArgumentValueError, match=r"'batch' to be 5, but .* x \[2, 6\]; .*shapes=\{'batch': 5\}"):
        ek.InferenceSession(program, options)


def test_free_dimensions_of_several_sizes_are_known_by_name():
    g = Graph()
    program = ek.compile(g.model(g.op("Relu", g.input("x", ("rows", 8)))), shapes={"rows": [2, 4]})
    for size, fits in ((2, True), (4, True), (8, False)):  # 8 is the other axis
        options = ek.SessionOptions()
        options.add_free_dimension_override_by_name("rows", size)
        if fits:
            ek.InferenceSession(program, options)
        else:
            with pytest.raises(ArgumentValueError, match=r"'rows' to be 8, but .* compiled for \[2, 4\]"):
                ek.InferenceSession(program, options)


def test_options_are_copied_and_shown():
    options = ek.SessionOptions()
    options.intra_op_num_threads = 3
    for other in (copy.copy(options), copy.deepcopy(options), pickle.loads(pickle.dumps(options))):
        assert other.intra_op_num_threads == 3
    assert repr(options) == "SessionOptions(intra_op_num_threads=3)"


def test_a_run_is_refused_that_shall_not_run(session, feeds):
    options = ek.RunOptions()
    for run in (
        lambda: session.run(None, feeds, options),
        lambda: session.run(None, feeds, run_options=options),
        lambda: session.run_with_ort_values(None, {"x": ek.OrtValue.ortvalue_from_numpy(feeds["x"])}, options),
        lambda: session.run_with_iobinding(bound(session, feeds), options),
    ):
        options.terminate = False
        run()
        options.terminate = True
        with pytest.raises(RunTerminatedError, match=r"run_options\.terminate is True"):
            run()


def bound(session, feeds):
    binding = session.io_binding()
    binding.bind_cpu_input("x", feeds["x"])
    for node in session.get_outputs():
        binding.bind_output(node.name)
    return binding


# Providers.


def test_providers_are_onnxruntimes_lists(program):
    for providers, options in (
        (None, None),
        ([], None),
        ([CPU], None),
        ((CPU,), None),
        ([(CPU, {"arena_extend_strategy": "kSameAsRequested"})], None),
        ([CPU], [{"use_arena": 1}]),
    ):
        session = ek.InferenceSession(program, None, providers, options)
        assert session.get_providers() == [CPU] == ek.get_available_providers()
        assert session.get_provider_options() == {CPU: {}}
        session.set_providers(providers, options)


def test_others_are_skipped_and_said(program):
    message = "CUDAExecutionProvider, TensorrtExecutionProvider of providers is skipped; edgekern has"
    with pytest.warns(EdgekernWarning, match=message) as seen:
        ek.InferenceSession(program, providers=["CUDAExecutionProvider", ("TensorrtExecutionProvider", {}), CPU])
    assert [one.filename for one in seen] == [__file__]
    with pytest.warns(EdgekernWarning, match="set_providers: CUDAExecutionProvider of"):
        ek.InferenceSession(program).set_providers(["CUDAExecutionProvider", CPU])


BAD_PROVIDERS = {
    "none of ours": (["CUDAExecutionProvider"], None, ArgumentValueError, f"must have '{CPU}' among them"),
    "string": (CPU, None, ArgumentTypeError, "providers must be a list, got str"),
    "number": (3, None, ArgumentTypeError, "providers must be a list, got int"),
    "entry": ([3], None, ArgumentTypeError, r"must hold names or \(name, dict\), got 3"),
    "pair": ([(CPU, "fast")], None, ArgumentTypeError, r"must hold names or \(name, dict\)"),
    "lengths": ([CPU], [{}, {}], ArgumentValueError, "an entry for each of 1 providers, got 2"),
    "both": ([(CPU, {})], [{}], ArgumentTypeError, "options stand in one of both lists"),
    "options": ([CPU], ["fast"], ArgumentTypeError, "must be a list of dicts"),
    "no list": ([CPU], {}, ArgumentTypeError, "provider_options must be a list, got dict"),
}


@pytest.mark.parametrize("name", BAD_PROVIDERS)
def test_bad_providers_are_refused(program, name):
    providers, options, error, message = BAD_PROVIDERS[name]
    for call in (lambda *a: ek.InferenceSession(program, None, *a), ek.InferenceSession(program).set_providers):
        with pytest.raises(error, match=message):
            call(providers, options)


def test_names_of_the_package_answer_as_onnxruntimes_do():
    assert ek.get_device() == "CPU"
    ek.set_default_logger_severity(3)
    for wrong in (-1, 5):
        with pytest.raises(ArgumentValueError, match="severity must be 0"):
            ek.set_default_logger_severity(wrong)
