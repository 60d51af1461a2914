"""Focal and global distillation."""

import math

from lad.losses import FGDLoss, Objects
from lad.losses.focal_global import ObjectMasks, attention, focal_terms, object_masks

import pytest
import torch
from helpers import fake_cuda
from hypothesis import given, settings
from hypothesis import strategies as st


def random_maps(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def objects_in(*boxes, images=None, image_size=(32, 32)):
    images = torch.tensor(images if images is not None else [0] * len(boxes), dtype=torch.long)
    return Objects(torch.tensor(boxes, dtype=torch.float32).view(-1, 4), images, image_size)


def loop_masks(objects, num_images, map_size):
    """An independent reading of the paper: position by position, object by object."""
    height, width = map_size
    foreground = [[[0.0] * width for _ in range(height)] for _ in range(num_images)]
    for box, image in zip(objects.bboxes.tolist(), objects.images.tolist(), strict=True):
        left = math.floor(box[0] * width / objects.image_size[1])
        top = math.floor(box[1] * height / objects.image_size[0])
        right = math.ceil(box[2] * width / objects.image_size[1])
        bottom = math.ceil(box[3] * height / objects.image_size[0])
        area = (right - left + 1) * (bottom - top + 1)
        for y in range(height):
            for x in range(width):
                if left <= x <= right and top <= y <= bottom:
                    foreground[image][y][x] = max(foreground[image][y][x], 1 / area)
    background = []
    for image in foreground:
        free = sum(value == 0 for row in image for value in row)
        background.append([[float(value == 0) / max(free, 1) for value in row] for row in image])
    return torch.tensor(foreground), torch.tensor(background)


def test_masks_by_hand():
    """A map of 4 x 4 on 32 x 32 pixels: a position is 8 pixels. Box (0, 0, 8, 8) covers columns 0 to 1 and rows 0 to 1,
    4 positions; box (9, 0, 31, 15) columns 1 to 4 (one beyond the edge) and rows 0 to 2, 12 positions. At column 1 both
    are: the smaller one counts. Rows 0 and 1 are covered, and columns 1 to 3 of row 2: five positions are left."""
    masks = object_masks(objects_in([0, 0, 8, 8], [9, 0, 31, 15]), 2, (4, 4))
    quarter, twelfth = 1 / 4, 1 / 12
    assert masks.foreground[0].tolist() == [
        pytest.approx(row)
        for row in (
            [quarter, quarter, twelfth, twelfth],
            [quarter, quarter, twelfth, twelfth],
            [0, twelfth, twelfth, twelfth],
            [0, 0, 0, 0],
        )
    ]
    assert masks.background[0].tolist() == [
        pytest.approx(row) for row in ([0] * 4, [0] * 4, [0.2, 0, 0, 0], [0.2] * 4)
    ]
    # An image without objects is background all over.
    assert masks.foreground[1].sum() == 0
    assert masks.background[1].unique().tolist() == [1 / 16]


@settings(max_examples=60)
@given(
    boxes=st.lists(
        st.tuples(
            *[st.floats(-10, 110, width=32)] * 2, *[st.floats(0.5, 60, width=32)] * 2, st.integers(0, 2)
        ),
        max_size=6,
    ),
    map_size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
)
def test_masks_equal_those_of_loops_over_images_and_objects(boxes, map_size):
    objects = objects_in(
        *[(x, y, x + w, y + h) for x, y, w, h, _ in boxes],
        images=[image for *_, image in boxes],
        image_size=(64, 96),
    )
    masks = object_masks(objects, 3, map_size)
    foreground, background = loop_masks(objects, 3, map_size)
    # Float32 and Python's floats may round a box at the very border of a position to different sides.
    scale = torch.tensor([map_size[1] / 96, map_size[0] / 64] * 2)
    edges = objects.bboxes.double() * scale
    if ((edges - edges.round()).abs() > 1e-4).all():
        torch.testing.assert_close(masks.foreground, foreground)
        torch.testing.assert_close(masks.background, background)
    elsewhere = masks.background.sum(dim=(1, 2))
    assert all(abs(part - round(part)) < 1e-5 for part in elsewhere.tolist())
    assert not ((masks.foreground > 0) & (masks.background > 0)).any()


def test_a_reversed_box_weighs_nothing():
    objects = Objects(torch.tensor([[20.0, 4.0, 4.0, 8.0]]), torch.tensor([0]), (16, 32))
    masks = object_masks(objects, 1, (2, 4))
    assert not masks.foreground.any()
    torch.testing.assert_close(masks.background, torch.full((1, 2, 4), 1 / 8))


def test_attention_by_hand():
    """One channel (0, ln 3 / 2) at T 1/2: softmax of (0, ln 3) is 1/4, 3/4, times two positions 1/2, 3/2. The channels'
    means are ln 3 / 4 and, for a channel of zeros, 0: softmax of (ln 3 / 2, 0) = (0.633975, 0.366025), times 2."""
    features = torch.tensor([[[[0.0, -math.log(3)]], [[0.0, 0]]]])
    spatial, channel = attention(features, temperature=0.5)
    assert spatial[0, 0].tolist() == pytest.approx([0.5, 1.5])
    assert channel[0].tolist() == pytest.approx([2 * 3 / 4, 2 * 1 / 4])


def test_terms_by_hand():
    """Teacher as above: attention (1/2, 3/2) of the positions and (3/2, 1/2) of the channels. Student 0: its attention
    is 1 everywhere. Squared differences of channel 1: 0 and ln(3)^2 = 1.206949, of channel 2: 0. So position 2 has
    3/2 * 3/2 * 1.206949 = 2.715635. An object there with weight 1/4 has 0.678909, background 1 at position 1 has 0.
    Attention: |1/2| + |1/2| of the positions and as much of the channels: 2."""
    teacher = torch.tensor([[[[0.0, -math.log(3)]], [[0.0, 0]]]])
    student = torch.zeros_like(teacher)
    masks = ObjectMasks(torch.tensor([[[0.0, 0.25]]]), torch.tensor([[[1.0, 0]]]))
    terms = focal_terms(student, teacher, masks, temperature=0.5)
    assert terms.foreground.tolist() == pytest.approx([0.678909], abs=1e-5)
    assert terms.background.tolist() == [0]
    assert terms.attention.tolist() == pytest.approx([2.0])
    swapped = ObjectMasks(masks.background, masks.foreground)
    assert focal_terms(student, teacher, swapped).background.tolist() == pytest.approx([0.678909], abs=1e-5)
    # The whole loss: alpha, beta and gamma; without its relation, averaged over two images, the other one equal.
    loss = FGDLoss(2, foreground=1.0, background=10.0, attention=0.1, relation=0.0)
    box = objects_in([5, 0, 8, 4], image_size=(4, 8))  # column 1 and one beyond, rows 0 and 1 (beyond): 1/4
    pair = torch.cat([student, teacher]), torch.cat([teacher, teacher])
    assert loss(*pair, box).item() == pytest.approx((0.678909 + 0.2) / 2, abs=1e-5)


def test_relation_is_the_squared_difference_while_the_blocks_add_nothing_and_both_blocks_learn():
    """A new GcBlock adds 0, as its last layer is 0; its gradient is not."""
    torch.manual_seed(0)
    student, teacher = random_maps(0, 2, 4, 3, 3).requires_grad_(), random_maps(1, 2, 4, 3, 3)
    loss = FGDLoss(4, foreground=0.0, background=0.0, attention=0.0, relation=1.0)
    value = loss(student, teacher, objects_in([0, 0, 8, 8]))
    assert value.item() == pytest.approx((student - teacher).square().sum().item() / 2, rel=1e-5)
    value.backward()
    for block in (loss.student_context, loss.teacher_context):
        assert block.channel_add_conv[-1].weight.grad.abs().sum() > 0
    # With weights: the context is the mean over positions, weighted by a softmax, through two layers.
    block = loss.student_context
    with torch.no_grad():
        block.channel_add_conv[-1].weight.normal_()
        attend = (block.conv_mask(student)).flatten(2).softmax(2)
        context = (student.flatten(2) * attend).sum(2)[:, :, None, None]
        expected = student + block.channel_add_conv(context)
        torch.testing.assert_close(block(student), expected)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_equals_cost_nothing_and_the_order_of_channels_does_not_matter(seed):
    maps, other = random_maps(seed, 2, 4, 3, 5), random_maps(seed + 1, 2, 4, 3, 5)
    masks = object_masks(objects_in([3, 3, 20, 20], images=[1]), 2, (3, 5))
    nothing = focal_terms(maps, maps, masks)
    assert all(term.max() == 0 for term in (nothing.foreground, nothing.background, nothing.attention))
    order = [2, 0, 3, 1]
    one, two = focal_terms(maps, other, masks), focal_terms(maps[:, order], other[:, order], masks)
    for name in ("foreground", "background", "attention"):
        torch.testing.assert_close(getattr(one, name), getattr(two, name), rtol=1e-4, atol=1e-5)


def test_gradient_moves_the_student_towards_the_teacher_where_an_object_is():
    student = torch.zeros(1, 1, 1, 4, requires_grad=True)
    teacher = torch.tensor([[[[2.0, -2, 2, 2]]]], requires_grad=True)
    masks = ObjectMasks(torch.tensor([[[0.5, 0.5, 0, 0]]]), torch.zeros(1, 1, 4))
    terms = focal_terms(student, teacher, masks)
    terms.foreground.sum().backward()
    gradient = student.grad[0, 0, 0]
    assert gradient[0] < 0 < gradient[1]
    assert gradient[2:].tolist() == [0, 0]
    assert teacher.grad is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("value", [0.0, 100.0, 3e4])
def test_constant_and_large_maps_are_finite_with_finite_gradients(dtype, value):
    student = torch.full((1, 4, 3, 3), value, dtype=dtype, requires_grad=True)
    teacher = random_maps(0, 1, 4, 3, 3).mul(100).to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype != torch.float32):
        loss = FGDLoss(4)(student, teacher, objects_in([0, 0, 20, 20]))
    assert loss.dtype == torch.float32
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


def test_temperature_is_checked():
    masks = ObjectMasks(torch.zeros(1, 2, 2), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="temperature must be positive"):
        focal_terms(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), masks, 0)


def test_on_cuda_tensors_nothing_waits():
    with fake_cuda():
        with torch.device("cuda"):
            loss = FGDLoss(4)
        maps = [torch.randn(2, 4, 8, 6, device="cuda") for _ in range(2)]
        for count in (0, 3):
            boxes = torch.rand(count, 4, device="cuda")
            objects = Objects(boxes, torch.zeros(count, dtype=torch.long, device="cuda"), (64, 48))
            assert loss(*maps, objects).device.type == "cuda"
