"""A pretended GPU for tests: shapes, dtypes and devices are checked, nothing is computed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv


@contextmanager
def fake_device() -> Iterator[FakeTensorMode]:
    """Inside, ``device='cuda'`` needs no GPU, and what would wait for one raises.

    Values of fake tensors do not exist, so asking the host for one (``.item()``, ``if tensor:``) raises, as
    does mixing devices in one operation.
    """
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        yield mode
