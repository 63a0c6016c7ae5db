"""The private core's classes: no object of them is met half made. What fails here would take the process with it."""

import subprocess
import sys

import pytest

from edgekern import _core

BASE = next(cls for cls in vars(_core).values() if isinstance(cls, type) and "PackedWeights" in cls.__name__).__mro__[1]
CLASSES = sorted(name for name, cls in vars(_core).items() if isinstance(cls, type) and issubclass(cls, BASE))

# A child process touches every attribute and calls every method of whatever object it can get.
CHILD = """
import copyreg, sys
from edgekern import _core

def touch(made):
    for name in dir(type(made)):
        if name.startswith("__") and name not in ("__len__", "__repr__", "__getstate__"):
            continue
        try:
            value = getattr(made, name)
        except Exception:
            continue
        for count in range(5):
            try:
                value(*[0] * count)
            except Exception:
                pass

cls = getattr(_core, sys.argv[1])
ways = {
    "__new__": lambda: cls.__new__(cls),
    "the base's __new__": lambda: cls.__mro__[1].__new__(cls),
    "object's __new__": lambda: object.__new__(cls),
    "copyreg": lambda: copyreg.__newobj__(cls),
    "a subclass without the parent's __init__": lambda: type("Sub", (cls,), {"__init__": lambda self: None})(),
}
for way, make in ways.items():
    try:
        made = make()
    except TypeError:
        continue
    touch(made)
    sys.exit(f"{way} makes a {sys.argv[1]}")
"""


def test_the_core_has_classes():
    assert {"KvCache", "Decoder", "Session", "ProgramIndex", "PackedWeights"} <= set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_only_calling_a_class_of_the_core_makes_an_object(name):
    done = subprocess.run([sys.executable, "-c", CHILD, name], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
