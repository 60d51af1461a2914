"""Kernels on a device of which only the shapes are known: they stay there, write every destination and never wait."""

from __future__ import annotations

import lad  # noqa: F401  provides mmcv._ext, which mmcv.ops loads when it is imported

# isort: split

from dataclasses import dataclass, field
from typing import Any

from lad.mmcv_ops.deform_conv import Geometry, _fixed_outside
from lad.mmcv_ops.kernels import KERNELS

import pytest
import torch
from helpers import fake_cuda
from torch._subclasses.fake_tensor import FakeTensorDeviceMismatchError
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode


@dataclass(frozen=True)
class Shape:
    """A tensor of a call: its shape, dtype, and exclusive upper bound where it holds indices."""

    size: tuple[int, ...]
    below: int = 0
    is_destination: bool = False

    def make(self, device: str) -> torch.Tensor:
        """Destinations are NaN (-1 for integers), so that what is not written is seen."""
        if self.below:
            fill = -1 if self.is_destination else 0
            made = torch.full(self.size, fill, dtype=torch.long, device=device)
            if device == "cpu" and not self.is_destination:
                made.random_(self.below, generator=torch.Generator().manual_seed(0))
            return made
        if self.is_destination:
            return torch.full(self.size, torch.nan, device=device)
        if device != "cpu":
            return torch.empty(self.size, device=device)
        return torch.rand(self.size, generator=torch.Generator().manual_seed(len(self.size)))


def into(*size: int, below: int = 0) -> Shape:
    return Shape(size, below, is_destination=True)


def of(*size: int, below: int = 0) -> Shape:
    return Shape(size, below)


@dataclass(frozen=True)
class Call:
    tensors: list[Shape]
    options: dict[str, Any] = field(default_factory=dict)
    #: Tensors that the kernel does not read, and those of indexing, for which a fake tensor checks no device.
    unchecked: tuple[int, ...] = ()


FOCAL = dict(gamma=2.0, alpha=0.25)
CARAFE = dict(kernel_size=3, group_size=2, scale_factor=2)
POOL = dict(spatial_scale=0.5)
DEFORM = {
    f"{name}_{axis}": n for name, n in (("kernel", 3), ("stride", 1), ("pad", 1)) for axis in "hw"
} | dict(dilation_h=1, dilation_w=1, group=1, deformable_group=1, with_bias=True)
ALIGN = dict(aligned_height=2, aligned_width=2, sampling_ratio=2, pool_mode=1, aligned=True, **POOL)

CALLS = {
    "bbox_overlaps": Call([of(3, 4), of(5, 4), into(3, 5)], dict(mode=0, aligned=False, offset=0)),
    "roi_align_forward": Call(
        [of(2, 3, 8, 8), of(4, 5), into(4, 3, 2, 2), of(0), of(0)], ALIGN, unchecked=(3, 4)
    ),
    "roi_pool_backward": Call(
        [of(4, 3, 2, 2), of(4, 5), of(4, 3, 2, 2, below=64), into(2, 3, 8, 8)],
        dict(pooled_height=2, pooled_width=2, **POOL),
    ),
    "sigmoid_focal_loss_forward": Call([of(6, 4), of(6, below=5), of(4), into(6, 4)], FOCAL),
    "sigmoid_focal_loss_backward": Call([of(6, 4), of(6, below=5), of(4), into(6, 4)], FOCAL),
    "softmax_focal_loss_forward": Call([of(6, 4), of(6, below=5), of(4), into(6)], FOCAL),
    "softmax_focal_loss_backward": Call([of(6, 4), of(6, below=5), of(4), into(6), into(6, 4)], FOCAL),
    "carafe_naive_forward": Call([of(2, 4, 3, 4), of(2, 18, 6, 8), into(2, 4, 6, 8)], CARAFE),
    "carafe_naive_backward": Call(
        [of(2, 4, 6, 8), of(2, 4, 3, 4), of(2, 18, 6, 8), into(2, 4, 3, 4), into(2, 18, 6, 8)], CARAFE
    ),
    "masked_im2col_forward": Call(
        [of(1, 3, 6, 7), of(5, below=6), of(5, below=6), into(27, 5)],
        dict(kernel_h=3, kernel_w=3, pad_h=1, pad_w=1),
        unchecked=(0, 1, 2),
    ),
    "modulated_deform_conv_forward": Call(
        # Offsets and masks are larger than the output, as DyHead's.
        [
            of(2, 4, 6, 7),
            of(6, 4, 3, 3),
            of(6),
            of(0),
            of(2, 18, 8, 8),
            of(2, 9, 8, 8),
            into(2, 6, 6, 7),
            of(0),
        ],
        DEFORM,
        unchecked=(3, 7),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_kernel_on_cuda_inputs_writes_every_destination_and_never_waits(name):
    call = CALLS[name]
    with fake_cuda(real_inputs=False):
        tensors = [shape.make("cuda") for shape in call.tensors]
        versions = [tensor._version for tensor in tensors]
        KERNELS[name](*tensors, **call.options)
        written = [tensor._version > version for tensor, version in zip(tensors, versions, strict=True)]
        assert written == [shape.is_destination for shape in call.tensors]
        assert {tensor.device.type for tensor in tensors} == {"cuda"}


@pytest.mark.parametrize("name", CALLS)
def test_an_input_left_on_the_cpu_is_noticed(name):
    """The control: without it the test above could not fail."""
    call = CALLS[name]
    inputs = [
        i for i, shape in enumerate(call.tensors) if not shape.is_destination and i not in call.unchecked
    ]
    for stray in inputs:
        with fake_cuda(real_inputs=False):
            tensors = [shape.make("cpu" if i == stray else "cuda") for i, shape in enumerate(call.tensors)]
            with pytest.raises((FakeTensorDeviceMismatchError, RuntimeError), match="device"):
                KERNELS[name](*tensors, **call.options)


@pytest.mark.parametrize("name", CALLS)
def test_every_element_of_a_destination_is_overwritten(name):
    call = CALLS[name]
    tensors = [shape.make("cpu") for shape in call.tensors]
    KERNELS[name](*tensors, **call.options)
    for tensor, shape in zip(tensors, call.tensors, strict=True):
        if shape.is_destination:
            assert tensor.isfinite().all()
            assert tensor.any()


def test_columns_are_scattered_to_their_pixels_on_cuda_inputs():
    with fake_cuda(real_inputs=False):
        columns, output = torch.empty(4, 5, device="cuda"), torch.empty(1, 4, 6, 7, device="cuda")
        rows = torch.empty(5, dtype=torch.long, device="cuda")
        version = output._version
        KERNELS["masked_col2im_forward"](columns, rows, rows, output, height=6, width=7, channels=4)
        assert output._version > version


def test_a_kernel_that_needs_a_number_of_the_device_is_noticed():
    """RoIPool's loop runs over the cells of the largest bin: it waits for that number, once."""
    with fake_cuda(real_inputs=False):
        features, rois = torch.empty(2, 3, 8, 8, device="cuda"), torch.empty(4, 5, device="cuda")
        output = torch.empty(4, 3, 2, 2, device="cuda")
        with pytest.raises(GuardOnDataDependentSymNode):
            KERNELS["roi_pool_forward"](features, rois, output, output.long(), 2, 2, 0.5)


def test_backward_of_modulated_deform_conv_stays_on_its_device():
    """On the meta device: the backward pass of a fake CUDA tensor needs a real device."""

    def empty(*size: int) -> torch.Tensor:
        return torch.empty(size, device="meta")

    x, weight, bias, output = empty(2, 4, 6, 7), empty(6, 4, 3, 3), empty(6), empty(2, 6, 6, 7)
    offset, mask = empty(2, 18, 8, 8), empty(2, 9, 8, 8)
    gradients = [torch.empty_like(tensor) for tensor in (x, weight, bias, offset, mask)]
    before = [gradient._version for gradient in gradients]
    backward = KERNELS["modulated_deform_conv_backward"]
    backward(x, weight, bias, empty(0), offset, mask, empty(0), *gradients, output, **DEFORM)
    assert [gradient._version for gradient in gradients] == [version + 1 for version in before]
    for stray in ("input", "grad_output"):  # the control; torchvision's meta kernel checks no other
        own, grad = (torch.rand(x.shape), output) if stray == "input" else (x, torch.rand(output.shape))
        with pytest.raises(RuntimeError, match="expected device"):
            backward(own, weight, bias, empty(0), offset, mask, empty(0), *gradients, grad, **DEFORM)


def test_offsets_outside_are_detached_on_cuda_inputs():
    geometry = Geometry((1, 1), (1, 1), (1, 1))
    with fake_cuda(real_inputs=False):
        moved = _fixed_outside(torch.empty(2, 18, 6, 7, device="cuda"), (6, 7), (3, 3), geometry)
        assert (moved.device.type, moved.shape) == ("cuda", (2, 18, 6, 7))
