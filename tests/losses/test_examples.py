"""Examples in the docstrings of the losses."""

import doctest
import importlib
import pkgutil

from lad import losses

import pytest
import torch

MODULES = [
    importlib.import_module(f"lad.losses.{module.name}") for module in pkgutil.iter_modules(losses.__path__)
]
#: Public classes without a value of their own.
WITHOUT_VALUE = {"FeatureLoss", "Objects"}


def examples(module):
    """Name and doctest of each docstring with an example in a module."""
    found = doctest.DocTestFinder(exclude_empty=True).find(module, module.__name__)
    return {test.name.removeprefix(f"{module.__name__}."): test for test in found if test.examples}


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples_are_right(module):
    for test in examples(module).values():
        output = []
        with torch.random.fork_rng():
            result = doctest.DocTestRunner(verbose=False).run(test, out=output.append)
        assert not result.failed, "".join(output)


@pytest.mark.parametrize("name", sorted(set(losses.__all__) - WITHOUT_VALUE))
def test_public_loss_has_an_example_that_shows_a_value(name):
    module = importlib.import_module(getattr(losses, name).__module__)
    shown = examples(module).get(name)
    assert shown is not None, f"{module.__name__}.{name} has no example"
    assert any(example.want for example in shown.examples)
