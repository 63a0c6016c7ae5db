"""Without the toolkit's modules every public name is there, or says which extra brings it."""

import json
import subprocess
import sys

import pytest

import edgekern as ek
from edgekern.errors import MissingExtraError

CHILD = """
import json, sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"typer", "rich", "click", "onnx", "onnx_ir", "onnxruntime", "tokenizers", "PIL"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import edgekern as ek
told = {}
for name in ek.__all__:
    try:
        getattr(ek, name)
    except ek.errors.MissingExtraError as error:
        assert isinstance(error, (ModuleNotFoundError, ek.errors.EdgekernError))
        told[name] = [str(error), error.name]
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def told():
    child = subprocess.run([sys.executable, "-c", CHILD], capture_output=True, text=True, check=True)
    return json.loads(child.stdout)


def test_names_of_the_toolkit_say_which_extra_they_need(told):
    assert {"quantize", "compile", "compare", "evaluate", "validate", "compress", "sensitivity"} <= set(told)
    for name, (message, module) in told.items():
        assert message == f"edgekern.{name} needs the module {module}; install it with: pip install 'edgekern[toolkit]'"


def test_the_base_install_has_the_rest(told):
    base = {"InferenceSession", "Program", "Batcher", "llm", "linear", "matmul_integer", "RingKVCache", "cpu_info"}
    assert not base & set(told)


def test_other_modules_that_are_missing_are_no_matter_of_extras():
    from edgekern._extras import missing

    error = ModuleNotFoundError("No module named 'elsewhere'", name="elsewhere")
    assert missing("edgekern.quantize", error) is error
    told = missing("edgekern.quantize", ModuleNotFoundError(name="onnx.helper"))
    assert isinstance(told, MissingExtraError)
    assert told.name == "onnx.helper"


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        ek.quantise  # noqa: B018
