"""Random shifts and mirroring of images together with their boxes."""

from lad.synthesis.augmentation import Movement, random_movement, room

import torch
from helpers import fake_cuda
from hypothesis import given
from hypothesis import strategies as st

SIZE = (12, 20)


def drawn(seed, jitter=5, flip_prob=0.5):
    """Images with a painted rectangle each, their boxes, and a movement."""
    generator = torch.Generator().manual_seed(seed)
    height, width = SIZE
    images = torch.zeros(3, 1, height, width)
    left = torch.randint(0, width - 4, (3,), generator=generator)
    top = torch.randint(0, height - 3, (3,), generator=generator)
    bboxes = torch.stack([left, top, left + 4, top + 3], dim=1).float()
    for number, (x1, y1, x2, y2) in enumerate(bboxes.int().tolist()):
        images[number, :, y1:y2, x1:x2] = 1
    image = torch.arange(3)
    limits = room(bboxes, image, 3, SIZE)
    return images, bboxes, image, random_movement(limits, jitter, flip_prob, generator)


@given(st.integers(0, 1000))
def test_boxes_stay_on_what_they_were_around(seed):
    images, bboxes, image, movement = drawn(seed)
    moved, boxes = movement.images(images), movement.boxes(bboxes, image, SIZE[1])
    for picture, (x1, y1, x2, y2) in zip(moved, boxes.int().tolist(), strict=True):
        assert picture.sum() == 12
        assert picture[:, y1:y2, x1:x2].sum() == 12  # so it is inside, and nothing was cut


@given(st.integers(0, 1000))
def test_images_are_rolled_and_flipped(seed):
    images = torch.randn(3, 2, *SIZE, generator=torch.Generator().manual_seed(seed))
    _, _, _, movement = drawn(seed)
    for image, moved, (across, down), mirrored in zip(
        images, movement.images(images), movement.shift.tolist(), movement.mirrored.tolist(), strict=True
    ):
        rolled = image.roll((down, across), (1, 2))
        assert torch.equal(moved, rolled.flip(2) if mirrored else rolled)


def test_shift_is_within_the_jitter_and_reaches_its_limits():
    limits = torch.full((4000, 2), -9), torch.full((4000, 2), 9)
    movement = random_movement(limits, 3, 0.25, torch.Generator().manual_seed(0))
    assert set(movement.shift.flatten().tolist()) == set(range(-3, 4))
    assert 0.2 < movement.mirrored.float().mean() < 0.3


def test_box_at_the_border_leaves_no_room_on_its_side():
    least, most = room(
        torch.tensor([[0.0, 2.5, 18.0, 12.0], [4.0, 3.0, 5.0, 4.0]]), torch.zeros(2).long(), 2, SIZE
    )
    assert least.tolist() == [[0, -2], [-20, -12]]  # the second image has no box: as far as one likes
    assert most.tolist() == [[2, 0], [20, 12]]


def test_gradient_goes_back_to_the_moved_pixels():
    images = torch.zeros(1, 1, *SIZE, requires_grad=True)
    movement = Movement(torch.tensor([[2, 1]]), torch.tensor([False]))
    movement.images(images)[0, 0, 5, 7].backward()
    assert images.grad.nonzero().tolist() == [[0, 0, 4, 5]]


def test_movement_does_not_wait_for_the_device():
    with fake_cuda():
        images = torch.zeros(2, 3, *SIZE, device="cuda")
        bboxes, image = torch.zeros(4, 4, device="cuda"), torch.zeros(4, dtype=torch.int64, device="cuda")
        movement = random_movement(room(bboxes, image, 2, SIZE), 3, 0.5, torch.Generator())
        assert movement.images(images).device.type == "cuda"
        assert movement.boxes(bboxes, image, 20).shape == (4, 4)
