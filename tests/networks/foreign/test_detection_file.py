"""Files of detections as teachers: reading, class names, data pipelines, the student's own loss on them."""

import copy
import json
import pickle
import random
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.datasets.detection_file import category_names, check_images, labels_of, read_detections
from lad.datasets.teacher_detections import (
    FIRST_ROW,
    SHARES,
    TAUGHT,
    AddTeacherDetections,
    DetectionsOfBatch,
    add_to_pipelines,
    detections_of,
)
from lad.engine.defaults import survive_interruption
from lad.engine.hooks.detection_files import DetectionFileHook
from lad.errors import ConfigError, DataError, UnsupportedError

import numpy as np
import pytest
import torch
from dense_detectors import dense
from detr_detectors import small_detr
from helpers import build, make_batch, save_checkpoint, small_paa
from mmdet.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.logging import MessageHub
from mmengine.structures import InstanceData
from PIL import Image
from seam_detectors import set_epoch
from two_stage_detectors import two_stage, with_masks

NAMES = {1: "cat", 2: "dog", 7: "cow"}
CLASSES = ("dog", "cat", "cow")


def entry(image=1, category=1, box=(10, 20, 30, 40), score=0.5):
    return dict(image_id=image, category_id=category, bbox=list(box), score=score)


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


# -- Reading --------------------------------------------------------------------------------------------------------


def test_detections_of_an_image_stand_together_the_best_first(tmp_path):
    path = write(
        tmp_path / "found.json",
        [
            entry(image=2, category=7, score=0.3),
            entry(image=1, category=2, box=(0, 0, 5, 5), score=0.9),
            entry(image=2, category=1, score=0.8),
            entry(image=2, category=1, score=0.01),  # below min_score
            entry(image=2, category=1, score=0.2),  # the third of two
            entry(image=3, category=1, score=0.01),  # named, and nothing is left
        ],
    )
    found = read_detections(path, NAMES, min_score=0.05, max_per_image=2)
    assert found.rows == {"1": (0, 1), "2": (1, 3), "3": (0, 0)}
    assert found.boxes.tolist() == [[0, 0, 5, 5], [10, 20, 40, 60], [10, 20, 40, 60]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    assert [found.names[number] for number in found.classes] == ["dog", "cat", "cow"]


def test_labels_of_lad_label_are_read_and_name_images_without_any(tmp_path):
    content = dict(images=[dict(id=5), dict(id=6)], categories=[], annotations=[entry(image=5)])
    found = read_detections(write(tmp_path / "labels.json", content), NAMES)
    assert found.rows == {"5": (0, 1), "6": (0, 0)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (dict(boxes=[]), "is no COCO result file: it holds a dict"),
        ([entry(), dict(image_id=1, category_id=1, bbox=[0, 0, 1, 1])], "entry 1 has no 'score'"),
        ([[1, 2, 3]], "entry 0 has no 'image_id'"),
        ([entry(box=(1, 2, 3))], r"entry 0: bbox must be \[left, top, width, height\], got \[1, 2, 3\]"),
        ([entry(score=93)], "entry 0: score must be from 0 to 1, got 93"),
        ([entry(score=float("nan"))], "score must be from 0 to 1, got nan"),
        ([entry(category=3)], r"no name for category_id 3; names are known for 1, 2, 7: give the ann_file"),
        ([entry(category=[1])], r"no name for category_id \[1\]"),
    ],
)
def test_wrong_entries_are_named_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_detections(write(tmp_path / "found.json", content), NAMES)
    assert "\n" not in str(caught.value)


def test_files_that_are_none_are_one_line(tmp_path):
    with pytest.raises(DataError, match=r"there is no result file '/nowhere\.json'"):
        read_detections("/nowhere.json", NAMES)
    (tmp_path / "page.json").write_text("<html>404</html>")
    with pytest.raises(DataError, match=r"page\.json is no JSON file"):
        read_detections(str(tmp_path / "page.json"), NAMES)


def test_class_names_come_from_a_coco_file_or_a_list(tmp_path):
    categories = [dict(id=7, name="cow"), dict(id=2, name="dog")]
    path = write(tmp_path / "coco.json", dict(images=[], annotations=[], categories=categories))
    assert category_names(path, None, "x") == {7: "cow", 2: "dog"}
    assert category_names(None, ["cat", "dog"], "x") == {1: "cat", 2: "dog"}
    assert category_names(None, {0: "cat"}, "x") == {0: "cat"}
    for ann_file, classes in ((None, None), (path, ["cat"])):
        with pytest.raises(ConfigError, match="needs the names of its category ids"):
            category_names(ann_file, classes, "x")
    with pytest.raises(ConfigError, match="classes must be a list of names"):
        category_names(None, "cat", "x")


def test_classes_are_mapped_by_name_and_others_are_refused_or_dropped(tmp_path):
    path = write(
        tmp_path / "found.json", [entry(category=number, score=0.9 - number / 10) for number in NAMES]
    )
    found = read_detections(path, NAMES)  # cat, dog, cow
    assert labels_of(found, CLASSES, False, "x").tolist() == [1, 0, 2]
    assert labels_of(found, ("dog", "cow"), True, "x").tolist() == [-1, 0, 1]
    with pytest.raises(
        ConfigError, match=r"detections of 'cat', and the training data has no such class.*'drop'"
    ):
        labels_of(found, ("dog", "cow"), False, "x")
    with pytest.raises(
        ConfigError, match=r"detections of 'cat', 'cow', 'dog', and the training data has no such"
    ):
        labels_of(found, ("red", "blue"), True, "x")
    with pytest.raises(ConfigError, match="has no class names"):
        labels_of(found, None, True, "x")


def test_images_that_the_file_does_not_name_are_refused(tmp_path):
    found = read_detections(write(tmp_path / "found.json", [entry(image=1), entry(image="b")]), NAMES)
    check_images(found, [1, "b"], False, "x")
    check_images(found, [1, 2], True, "x")
    with pytest.raises(
        DataError, match=r"names 1 of the 2 training images nowhere \(ids 2\).*missing='empty'"
    ):
        check_images(found, [1, 2], False, "x")
    with pytest.raises(
        DataError, match=r"names none of the 2 training images \(their ids are 8, 9; the file's 1, b"
    ):
        check_images(found, [8, 9], True, "x")
    with pytest.raises(DataError, match="1 training images have the id of another one"):
        check_images(found, [1, 1], False, "x")


# -- Through data pipelines -----------------------------------------------------------------------------------------

LOAD = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True)]
RESIZE = dict(type="Resize", scale=(160, 120), keep_ratio=False)
PIPELINES = {
    "resized and flipped": [RESIZE, dict(type="RandomFlip", prob=1.0, direction=["horizontal", "diagonal"])],
    "cropped": [dict(type="RandomCrop", crop_size=(40, 40)), RESIZE],
    "cropped by overlap": [dict(type="MinIoURandomCrop"), RESIZE],
    "turned": [dict(type="Rotate", prob=1.0, level=6), RESIZE],
    "filtered": [RESIZE, dict(type="FilterAnnotations", min_gt_bbox_wh=(24, 24))],
    "mosaic, affine, mixed": [
        dict(type="CachedMosaic", img_scale=(80, 80), pad_val=114.0),
        dict(type="RandomAffine", scaling_ratio_range=(0.8, 1.2), border=(0, 0)),
        dict(type="CachedMixUp", img_scale=(80, 80), ratio_range=(1.0, 1.0), max_cached_images=3),
        RESIZE,
    ],
}


@pytest.fixture
def images(tmp_path):
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


def attached(folder, steps, **settings):
    """A data set to whose images the detections are added, and what takes them out of a batch."""
    found = read_detections(str(folder / "found.json"), NAMES)
    dataset, of_batch = dataset_of(folder, steps, **settings), DetectionsOfBatch()
    labels = labels_of(found, dataset.metainfo["classes"], False, "x")
    first = of_batch.add("teacher", found, labels)
    add_to_pipelines(dataset, AddTeacherDetections(found, labels, first), "x")
    return dataset, of_batch


def load(dataset, seed):
    """Each image, after transforms that mix images have seen some."""
    np.random.seed(seed)
    random.seed(seed)
    return [dataset[number % 4] for number in range(12)][8:]


def its(sample, name="teacher"):
    return detections_of(sample, name, torch.device("cpu"))


def preprocess(samples, of_batch=None, **settings):
    config = small_paa()
    config.data_preprocessor.update(settings)
    preprocessor = MODELS.build(config.data_preprocessor)
    if of_batch is not None:
        of_batch.register(preprocessor)
    return preprocessor(pseudo_collate(samples), True)["data_samples"]


@pytest.mark.parametrize("steps", PIPELINES.values(), ids=PIPELINES)
@pytest.mark.parametrize("seed", [0, 1])
def test_detections_follow_whatever_annotations_follow(images, steps, seed):
    """Those with the boxes of the annotations end up at the annotations, and carry their class and score."""
    dataset, of_batch = attached(images, steps)
    samples = preprocess(load(dataset, seed), of_batch)
    assert sum(len(sample.gt_instances) for sample in samples) > 0
    for sample in samples:
        found = its(sample)
        truth = sample.gt_instances
        assert found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
        # The score tells the class: 0.9 for cats, 0.8 for dogs, 0.7 for cows.
        assert found.labels.tolist() == [round(9 - 10 * score) for score in found.scores.tolist()]
        own, taught = (
            sorted(
                (label, *box) for label, box in zip(each.labels.tolist(), each.bboxes.tolist(), strict=True)
            )
            for each in (truth, found)
        )
        assert taught == own


@pytest.mark.parametrize("steps", list(PIPELINES.values())[:1], ids=["resized and flipped"])
def test_annotations_are_as_without_a_file(images, steps):
    dataset, of_batch = attached(images, steps)
    samples, plain = preprocess(load(dataset, 0), of_batch), preprocess(load(dataset_of(images, steps), 0))
    assert sum(len(sample.ignored_instances) for sample in plain) == 1
    for sample, expected in zip(samples, plain, strict=True):
        for name in ("gt_instances", "ignored_instances"):
            own, other = sample.get(name), expected.get(name)
            assert torch.equal(own.bboxes, other.bboxes)
            assert torch.equal(own.labels, other.labels)


def test_a_flipped_and_resized_box_is_where_it_should_be(images):
    write(images / "found.json", [entry(n, 1, (10, 20, 30, 40), 0.9) for n in range(1, 5)])
    dataset, of_batch = attached(images, [RESIZE, dict(type="RandomFlip", prob=1.0)])
    sample = preprocess(load(dataset, 0), of_batch)[0]
    # x 10 .. 40 of 80 is 20 .. 80 of 160, mirrored 80 .. 140; y 20 .. 60 of 60 is 40 .. 120 of 120.
    assert its(sample).bboxes.tolist() == [[80.0, 40.0, 140.0, 120.0]]


def test_boxes_follow_batch_augmentations(images):
    dataset, of_batch = attached(images, [RESIZE])
    resize = dict(type="BatchSyncRandomResize", random_size_range=(160, 160), size_divisor=32)
    config = small_paa().data_preprocessor
    preprocessor = MODELS.build(dict(config, batch_augments=[resize]))
    of_batch.register(preprocessor)
    MessageHub.get_current_instance().update_info("iter", 0)
    preprocessor.batch_augments[0]._input_size = (64, 80)  # half of 128 x 160
    sample = preprocessor(pseudo_collate(load(dataset, 0)), True)["data_samples"][0]
    found = its(sample)
    torch.testing.assert_close(
        found.bboxes[found.labels.argsort()], sample.gt_instances.bboxes[sample.gt_instances.labels.argsort()]
    )
    assert float(found.bboxes.max()) <= 80


def test_a_batch_may_be_preprocessed_twice(images):
    dataset, of_batch = attached(images, [RESIZE])
    batch = load(dataset, 0)
    first, again = preprocess(batch, of_batch), preprocess(batch, of_batch)
    for one, other in zip(first, again, strict=True):
        assert len(its(one)) == 3
        assert torch.equal(its(one).bboxes, its(other).bboxes)
        assert len(one.ignored_instances) == len(other.ignored_instances)


def test_pipelines_that_load_masks_and_worker_processes_take_detections(images):
    dataset, of_batch = attached(images, [RESIZE])
    content = json.loads((images / "coco.json").read_text())
    for one in content["annotations"]:
        left, top, width, height = one["bbox"]
        one["segmentation"] = [[left, top, left + width, top, left + width, top + height, left, top + height]]
    write(images / "coco.json", content)
    masked = dataset_of(images, [RESIZE])
    masked.pipeline.transforms[1].with_mask = True
    masked.pipeline.transforms.insert(0, pickle.loads(pickle.dumps(dataset.pipeline.transforms[0])))
    for sample in preprocess(load(masked, 0), of_batch):
        assert len(sample.gt_instances.masks) == len(sample.gt_instances)
        assert len(sample.ignored_instances.masks) == len(sample.ignored_instances)
        assert len(its(sample)) == 3


def test_pipelines_that_cannot_take_detections_are_refused(images):
    found = read_detections(str(images / "found.json"), NAMES)
    transform = AddTeacherDetections(found, np.zeros(len(found), np.int64))
    dataset = dataset_of(images, [])
    del dataset.pipeline.transforms[1]
    with pytest.raises(ConfigError, match="loads none: add dict\\(type='LoadAnnotations'"):
        add_to_pipelines(dataset, transform, "x")
    copying = SimpleNamespace(
        dataset=dataset_of(images, []), pipeline=[DATASETS and type("CopyPaste", (), {})()]
    )
    with pytest.raises(ConfigError, match="CopyPaste copies annotated objects"):
        add_to_pipelines(copying, transform, "x")


def test_labels_are_far_from_any_class():
    assert FIRST_ROW > 1 << 20
    assert int(np.float64(FIRST_ROW + 12345)) == FIRST_ROW + 12345


# -- Learning -------------------------------------------------------------------------------------------------------

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


@pytest.fixture
def some_file(tmp_path):
    return write(tmp_path / "found.json", [entry(0, 1)])


@pytest.mark.parametrize(
    "family", ["paa", "rtmdet", "retinanet", "fcos", "gfl", "yolox", "tood", "ddod", "vfnet"]
)
def test_detections_at_the_annotations_give_the_students_own_loss(family, some_file):
    model = distilled(dense(family), some_file)
    losses = model.loss(*taught_batch(model, of_truth()))
    own = {
        name: value for name, value in losses.items() if name.startswith("loss_") and "detections" not in name
    }
    assert own
    for name, value in own.items():
        expected = sum(value) if isinstance(value, list) else value
        torch.testing.assert_close(losses[name.replace("loss", "loss_detections", 1)], expected)


@pytest.mark.parametrize(
    "student",
    [two_stage("faster"), two_stage("mask"), small_detr("one_stage")],
    ids=["Faster", "Mask", "DETR"],
)
def test_other_detectors_learn_from_features_computed_once(student, some_file):
    model = distilled(student, some_file)
    model.init_weights()
    calls = []
    model.student.backbone.register_forward_hook(lambda *_: calls.append(1))
    inputs, samples = taught_batch(model, of_truth())
    if getattr(model.student, "with_mask", False):
        with_masks(samples)
    losses = model.loss(inputs, samples)
    assert "loss_detections_mask" not in losses
    taught = {name: value for name, value in losses.items() if "detections" in name}
    assert any("cls" in name for name in taught)
    assert any("bbox" in name for name in taught)
    assert len(calls) == 1
    sum(taught.values()).backward()
    gradients = [p.grad for p in model.student.backbone.parameters() if p.grad is not None]
    assert any(bool(gradient.abs().sum() > 0) for gradient in gradients)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


def test_own_loss_is_plain_training_and_weight_scales_the_terms(some_file):
    single, double = (
        distilled(small_paa(), some_file, dict(DETECTION, loss_weight=weight)) for weight in (1.0, 2.0)
    )
    plain = build(small_paa()).train()
    expected = plain.loss(*make_batch())
    one, two = (model.loss(*taught_batch(model, of_truth())) for model in (single, double))
    for name, value in expected.items():
        torch.testing.assert_close(one[name], value)
        torch.testing.assert_close(two[name], value)
    torch.testing.assert_close(two["loss_detections_cls"], 2 * one["loss_detections_cls"])


def test_soft_targets_make_a_detection_an_object_as_often_as_its_score(some_file):
    method = distilled(small_paa(), some_file, dict(DETECTION, targets="soft")).methods[0]
    found = InstanceData(
        bboxes=torch.zeros(3, 4), labels=torch.arange(3), scores=torch.tensor([0.9, 0.6, 0.2])
    )
    torch.manual_seed(0)
    counts = torch.tensor([len(method.chosen(found)) for _ in range(4000)])
    often = torch.stack([(counts > number).float().mean() for number in range(3)])
    torch.testing.assert_close(often, found.scores, atol=0.03, rtol=0)
    method.targets, method.min_score = "hard", 0.6
    assert method.chosen(found).labels.tolist() == [0, 1]


def test_a_student_learns_from_a_file_without_annotations(some_file):
    model = distilled(dense("rtmdet"), some_file, student_loss=False)
    inputs, samples = taught_batch(model, of_truth())
    for sample in samples:
        del sample.gt_instances
    losses = model.loss(inputs, samples)
    assert set(losses) == {"loss_detections_cls", "loss_detections_bbox"}
    sum(sum(value) if isinstance(value, list) else value for value in losses.values()).backward()
    assert all(p.grad is not None for p in model.student.parameters() if p.requires_grad)


def test_a_file_of_the_live_teachers_detections_gives_the_live_teachers_loss(tmp_path, some_file):
    """A box that travelled through JSON is the box."""
    student, teacher = small_paa(), small_paa(base=16)
    path = save_checkpoint(build(teacher, 1), tmp_path / "teacher.pth")
    config = dict(
        type="DistillationDetector",
        student=copy.deepcopy(student),
        teacher=dict(teacher, checkpoint=path),
        methods=[dict(DETECTION, min_score=0.3)],
    )
    live = MODELS.build(config)
    live.student.load_state_dict(build(student).state_dict())
    inputs, samples = make_batch()
    found = live.teachers["teacher"].view(inputs, samples, ()).detections
    assert sum(int((each.scores >= 0.3).sum()) for each in found) > 3
    flags = [module.training for module in live.teachers["teacher"].model.modules()]
    expected = live.loss(inputs, samples)
    assert [module.training for module in live.teachers["teacher"].model.modules()] == flags
    entries = [
        entry(number, int(label) + 1, (x1, y1, x2 - x1, y2 - y1), float(score))
        for number, each in enumerate(found)
        for (x1, y1, x2, y2), label, score in zip(
            each.bboxes.tolist(), each.labels.tolist(), each.scores.tolist(), strict=True
        )
    ]
    model = distilled(student, write(tmp_path / "live.json", entries), dict(DETECTION, min_score=0.3))
    read = model.teachers["teacher"].detections

    def of_file(sample):
        start, stop = read.rows[str(sample.img_id)]
        return InstanceData(
            bboxes=torch.from_numpy(read.boxes[start:stop]),
            labels=torch.from_numpy(read.classes[start:stop]),
            scores=torch.from_numpy(read.scores[start:stop]),
        )

    # The same class order: names by first appearance of their ids.
    losses = model.loss(*taught_batch(model, of_file))
    for name in ("loss_detections_cls", "loss_detections_bbox", "loss_detections_iou"):
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-4, atol=1e-5)


# -- A teacher like others ------------------------------------------------------------------------------------------


def test_file_is_in_no_list_of_the_detector_and_shared_by_copies(some_file):
    model = distilled(small_paa(), some_file)
    assert model.state_dict().keys() == build(small_paa()).state_dict().keys()
    twin = copy.deepcopy(model)
    assert twin.teachers["teacher"].model is model.teachers["teacher"].model
    assert twin.teachers["teacher"].of_batch is model.teachers["teacher"].of_batch
    assert len(twin.data_preprocessor._forward_hooks) == len(model.data_preprocessor._forward_hooks) == 1


def test_nothing_trains_before_the_detections_join_the_data(some_file):
    model = distilled(small_paa(), some_file)
    with pytest.raises(ConfigError, match=r"detection_files=dict\(type='DetectionFileHook'\)"):
        model.loss(*make_batch())
    model.teachers["teacher"].attach(("a", "b", "c"))
    with pytest.raises(ConfigError, match="have not passed the detector's data preprocessor"):
        model.loss(*make_batch())


def test_hook_joins_the_file_with_the_data_of_a_run(images):
    model = distilled(dense("rtmdet"), str(images / "found.json"), classes=NAMES)
    dataset = dataset_of(images, [dict(RESIZE, scale=(160, 128))])
    messages = []
    runner = SimpleNamespace(
        model=model,
        logger=SimpleNamespace(info=messages.append),
        train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)),
    )
    DetectionFileHook().before_train(runner)
    assert "12 detections" in messages[0]
    data = model.data_preprocessor(pseudo_collate(load(dataset, 0)), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    # The file's boxes are the annotations'.
    torch.testing.assert_close(losses["loss_detections_bbox"], sum(losses["loss_bbox"]))


def test_training_tools_add_the_hook_for_such_a_teacher_alone(some_file):
    def hooks_of(**teacher):
        cfg = Config(dict(model=dict(type="DistillationDetector", **teacher), train_cfg=dict(by_epoch=True)))
        survive_interruption(cfg)
        return cfg.default_hooks

    assert hooks_of(teacher=file_spec(some_file)).detection_files.type == "DetectionFileHook"
    assert hooks_of(teachers=dict(a=file_spec(some_file))).detection_files.type == "DetectionFileHook"
    assert "detection_files" not in hooks_of(teacher=dict(config="x.py", checkpoint="x.pth"))


def test_report_names_the_file_and_the_terms(some_file):
    text = describe(distilled(small_paa(), some_file))
    assert "teacher DetectionFile" in text
    assert "own loss on the teacher's detections" in text
    assert "loss_detections_cls" in text


def test_two_files_teach_apart(some_file, tmp_path, images):
    other = write(tmp_path / "other.json", [entry(n, 1, (1, 2, 3, 4), 0.4) for n in range(1, 5)])
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            teachers=dict(a=file_spec(str(images / "found.json")) | dict(classes=NAMES), b=file_spec(other)),
            methods=[dict(DETECTION, taught_by=name, name=name) for name in "ab"],
        )
    )
    dataset = dataset_of(images, [])
    for name, classes in (("a", ("cat", "dog", "cow")), ("b", ("a", "b", "c"))):
        add_to_pipelines(dataset, model.teachers[name].attach(classes), name)
    data = model.data_preprocessor(pseudo_collate(load(dataset, 0)), True)
    for sample in data["data_samples"]:
        assert its(sample, "a").scores.tolist() == pytest.approx([0.9, 0.8, 0.7])
        assert its(sample, "b").bboxes.tolist() == [[1, 2, 4, 6]]
    losses = model.loss(data["inputs"], data["data_samples"])
    assert {"a.loss_detections_cls", "b.loss_detections_cls"} <= losses.keys()


def test_what_does_not_work_is_refused_by_name(some_file, tmp_path):
    with pytest.raises(
        UnsupportedError,
        match=r"FeatureDistillation reads feature maps, and teacher 'teacher' \(DetectionFile\) gives boxes with "
        r"classes and scores only: DetectionDistillation can learn from it",
    ):
        distilled(small_paa(), some_file, dict(type="FeatureDistillation"))
    with pytest.raises(UnsupportedError, match=r"masks of MaskRCNN need student_loss=True"):
        distilled(two_stage("mask"), some_file, student_loss=False)
    with pytest.raises(ConfigError, match="runs no network: leave out checkpoint"):
        MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa(),
                teacher=dict(file_spec(some_file), checkpoint="x.pth"),
                methods=[DETECTION],
            )
        )
    for settings, message in (
        (dict(targets="both"), "targets must be 'soft' or 'hard'"),
        (dict(min_score=2), "min_score must be from 0 to 1"),
        (dict(loss_name="x"), "loss_name must contain 'loss'"),
        (dict(loss_weight=-1), "loss_weight must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            distilled(small_paa(), some_file, dict(DETECTION, **settings))
    peers = dict(
        type="DistillationDetector",
        networks=dict(a=small_paa(), b=small_paa()),
        methods=[dict(DETECTION, learner="a", taught_by="b")],
    )
    with pytest.raises(
        UnsupportedError, match=r"DetectionDistillation reads boxes with classes and scores, and teacher"
    ):
        MODELS.build(peers)
