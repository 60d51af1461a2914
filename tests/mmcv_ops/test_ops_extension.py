from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

import importlib.machinery
import sys

from lad.mmcv_ops import extension, is_installed
from lad.mmcv_ops.kernels import KERNELS

import mmcv.ops
import pytest
import torch


def test_stand_in_is_in_place():
    assert is_installed()
    assert sys.modules["mmcv._ext"] is mmcv._ext
    assert extension.install() is True
    assert sys.modules["mmcv._ext"] is mmcv._ext


def test_uncovered_operator_fails_when_called_and_names_itself():
    boxes = torch.tensor([[5.0, 5, 4, 2, 0.1]])
    with pytest.raises(NotImplementedError, match=r"'nms_rotated' needs the compiled mmcv.*install mmcv"):
        mmcv.ops.nms_rotated(boxes, torch.tensor([0.5]), 0.5)


def test_private_names_do_not_exist():
    assert not hasattr(mmcv._ext, "__path__")


def test_every_covered_kernel_is_served():
    for name, kernel in KERNELS.items():
        assert getattr(mmcv._ext, name) is kernel
        assert kernel.__name__ == name


def test_environment_report():
    assert mmcv.ops.get_compiler_version() == "n/a"
    assert mmcv.ops.get_compiling_cuda_version() == "n/a"


@pytest.fixture
def nothing_installed(monkeypatch):
    monkeypatch.delitem(sys.modules, "mmcv._ext")
    monkeypatch.delattr(mmcv, "_ext")


@pytest.mark.usefixtures("nothing_installed")
def test_steps_aside_for_a_compiled_extension(monkeypatch):
    find_spec = extension.importlib.util.find_spec

    def with_compiled(name, package=None):
        if name == "mmcv._ext":
            return importlib.machinery.ModuleSpec(name, loader=None, origin="compiled")
        return find_spec(name, package)

    monkeypatch.setattr(extension.importlib.util, "find_spec", with_compiled)
    assert extension.install() is False
    assert not is_installed()
    assert "mmcv._ext" not in sys.modules
    assert not hasattr(mmcv, "_ext")


@pytest.mark.usefixtures("nothing_installed")
def test_steps_aside_for_an_extension_that_is_loaded(monkeypatch):
    compiled = type(sys)("mmcv._ext")
    monkeypatch.setitem(sys.modules, "mmcv._ext", compiled)
    assert extension.install() is False
    assert sys.modules["mmcv._ext"] is compiled


@pytest.mark.usefixtures("nothing_installed")
def test_installs_where_nothing_is():
    assert extension.install() is True
    assert is_installed()
    assert mmcv._ext is sys.modules["mmcv._ext"]
