"""Result files, images with annotations, and students that such files teach."""

import copy
import json
import random
from types import SimpleNamespace

from lad.datasets.teacher_detections import SHARES, TAUGHT, detections_of

import numpy as np
import torch
from helpers import build, make_batch
from mmdet.registry import DATASETS, MODELS
from mmengine.structures import InstanceData
from PIL import Image
from seam_detectors import set_epoch

NAMES = {1: "cat", 2: "dog", 7: "cow"}
CLASSES = ("dog", "cat", "cow")


def entry(image=1, category=1, box=(10, 20, 30, 40), score=0.5):
    return dict(image_id=image, category_id=category, bbox=list(box), score=score)


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
RESIZE = dict(type="Resize", scale=(160, 120), keep_ratio=False)


def make_images(tmp_path):
    """Four images of 80 x 60 with objects, one of them a crowd, and a file of detections of the same boxes."""
    rng = np.random.default_rng(0)
    content = dict(images=[], annotations=[], categories=[dict(id=n, name=name) for n, name in NAMES.items()])
    found = []
    for number in range(1, 5):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        content["images"].append(dict(id=number, file_name=f"{number}.png", width=80, height=60))
        for count in range(3):
            left, top = rng.integers(0, 40), rng.integers(0, 30)
            box = [int(left), int(top), int(rng.integers(10, 40)), int(rng.integers(10, 30))]
            content["annotations"].append(
                dict(
                    id=len(content["annotations"]) + 1,
                    image_id=number,
                    category_id=[1, 2, 7][count],
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
            found.append(entry(number, [1, 2, 7][count], box, 0.9 - 0.1 * count))
    crowd = dict(id=99, image_id=1, category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=1)
    content["annotations"].append(crowd)
    write(tmp_path / "coco.json", content)
    write(tmp_path / "found.json", found)
    return tmp_path


def dataset_of(folder, steps, **settings):
    pipeline = [*LOAD, *steps, dict(type="PackDetInputs")]
    return DATASETS.build(
        dict(
            type="CocoDataset",
            ann_file=str(folder / "coco.json"),
            data_prefix=dict(img=str(folder)),
            metainfo=dict(classes=("cat", "dog", "cow")),
            pipeline=copy.deepcopy(pipeline),
            **settings,
        )
    )


def load(dataset, seed):
    """Each image, after transforms that mix images have seen some."""
    np.random.seed(seed)
    random.seed(seed)
    return [dataset[number % 4] for number in range(12)][8:]


def its(sample, name="teacher"):
    return detections_of(sample, name, torch.device("cpu"))


DETECTION = dict(type="DetectionDistillation", targets="hard", min_score=0.0)


def file_spec(path):
    return dict(type="DetectionFile", file=path, classes=["a", "b", "c"], missing="empty", min_score=0.0)


def taught_batch(model, found):
    """A batch whose images have the given detections, as they come behind the data preprocessor."""
    inputs, samples = make_batch()
    teacher = model.teachers["teacher"]
    teacher.attach(("a", "b", "c"))
    for sample in samples:
        own = found(sample)
        scores = own.scores.tolist()
        share = SimpleNamespace(start=0, scores=tuple(scores))
        sample.set_metainfo({SHARES: (0, {"teacher": share})})
        sample.set_field(InstanceData(bboxes=own.bboxes, labels=own.labels), TAUGHT)
    return inputs, samples


def of_truth(score=1.0):
    def found(sample):
        truth = sample.gt_instances
        return InstanceData(
            bboxes=truth.bboxes.clone(), labels=truth.labels.clone(), scores=torch.full((len(truth),), score)
        )

    return found


def distilled(student, path, *methods, classes=("a", "b", "c"), **settings):
    set_epoch(100)
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(file_spec(path), classes=classes),
            methods=copy.deepcopy(list(methods) or [DETECTION]),
            **settings,
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    return model
