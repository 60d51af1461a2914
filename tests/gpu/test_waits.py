"""Waits are attributed to the function that makes them, here on a CPU with warnings made by hand."""

import importlib
import inspect
import warnings

import pytest
from waits import DOCUMENTED, TEXT, Wait, recorded_waits


def warn():
    warnings.warn(f"called a {TEXT}", stacklevel=1)


def function_of(module, name="step"):
    """A function that warns, as if it stood in a module."""
    scope = dict(__name__=module, warn=warn)
    exec(f"def {name}():\n    warn()", scope)
    return scope[name]


@pytest.mark.parametrize(
    ("module", "name", "documented"),
    [
        ("lad.losses.pkd", "step", False),
        ("lad.assignment.candidates", "fetch", True),
        ("lad.assignment.candidates", "find_candidates", False),
        ("mmdet.models.utils", "multi_apply", True),
        ("elsewhere", "step", True),
    ],
)
def test_a_wait_belongs_to_the_innermost_function(module, name, documented):
    with recorded_waits() as found:
        function_of(module, name)()
        warnings.warn("something else", stacklevel=1)
    assert found == {Wait(module, name) if module != "elsewhere" else Wait("autograd", "")}
    assert {wait.is_documented for wait in found} == {documented}


def test_each_documented_wait_is_a_function_that_says_so():
    for module, name in DOCUMENTED:
        source = inspect.getsource(importlib.import_module(module))
        lines = source.splitlines()
        start = next(number for number, line in enumerate(lines) if f"def {name}(" in line)
        assert "wait" in "\n".join(lines[start : start + 16]).lower(), (
            f"{module}.{name} does not say that it waits"
        )
