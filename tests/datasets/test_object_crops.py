"""Objects cut out of the images of a COCO file."""

from lad.datasets.object_crops import cut_objects
from lad.errors import ConfigError, DataError

import mmcv
import numpy as np
import pytest

#: Every pixel tells its row and column.
PIXELS = np.stack(np.broadcast_arrays(np.arange(40)[:, None], np.arange(60), 7), axis=-1).astype(np.uint8)


def one(number, box, **more):
    return dict(id=number, image_id=5, bbox=box, **more)


@pytest.fixture
def images(tmp_path):
    mmcv.imwrite(PIXELS, str(tmp_path / "images/sub/a.png"))
    return tmp_path / "images"


def content(*annotations):
    return dict(images=[dict(id=5, file_name="sub/a.png")], annotations=list(annotations))


def crop(tmp_path, number):
    return mmcv.imread(str(tmp_path / f"out/5/{number}.png"))


def test_boxes_are_cut_out_with_their_context_and_within_the_image(tmp_path, images):
    boxes = content(one(1, [10, 20, 8, 12]), one(2, [50.4, 30.2, 20, 20]), one(3, [0, 0, 60, 40]))
    assert cut_objects(boxes, images, tmp_path / "out") == 3
    assert np.array_equal(crop(tmp_path, 1), PIXELS[20:32, 10:18])
    assert np.array_equal(crop(tmp_path, 2), PIXELS[30:, 50:])  # whole pixels that it touches
    assert np.array_equal(crop(tmp_path, 3), PIXELS)
    cut_objects(content(one(4, [10, 20, 8, 12])), images, tmp_path / "out", context=0.5)
    assert np.array_equal(crop(tmp_path, 4), PIXELS[14:38, 6:22])


def test_small_boxes_crowds_and_unsure_detections_are_left_out(tmp_path, images):
    boxes = content(
        one(1, [0, 0, 7.9, 20]),
        one(2, [0, 0, 20, 20], iscrowd=1),
        one(3, [0, 0, 20, 20], score=0.4),
        one(4, [0, 0, 20, 20], score=0.5),
        one(5, [0, 0, 20, 20]),
    )
    assert cut_objects(boxes, images, tmp_path / "out", min_score=0.5) == 2
    assert sorted(path.name for path in (tmp_path / "out").rglob("*.png")) == ["4.png", "5.png"]


def test_interrupted_call_goes_on_and_finished_images_are_not_read_again(tmp_path, images):
    boxes = content(one(1, [0, 0, 20, 20]), one(2, [20, 0, 20, 20]))
    cut_objects(boxes, images, tmp_path / "out")
    (tmp_path / "out/5/2.png").unlink()
    done = []
    cut_objects(boxes, images, tmp_path / "out", progress=lambda *state: done.append(state))
    assert np.array_equal(crop(tmp_path, 2), PIXELS[:20, 20:40])
    assert done == [(1, 1)]
    (images / "sub/a.png").unlink()
    assert cut_objects(boxes, images, tmp_path / "out") == 2


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (dict(context=-0.1), ConfigError, "context must be at least 0, got -0.1"),
        (dict(min_side=0), ConfigError, "min_side must be at least 1 pixel, got 0"),
        (dict(min_side=21), DataError, "no box is left to cut out"),
        (dict(images="elsewhere"), DataError, "image elsewhere/sub/a.png cannot be read"),
    ],
)
def test_what_cannot_be_cut_is_refused_in_one_line(tmp_path, images, settings, kind, message):
    settings = dict(images=images) | settings
    with pytest.raises(kind, match=message) as caught:
        cut_objects(content(one(1, [0, 0, 20, 20])), out=tmp_path / "out", **settings)
    assert "\n" not in str(caught.value)
