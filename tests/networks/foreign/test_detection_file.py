"""Files of detections as teachers: reading, class names, images, and what a file is in a training."""

import copy
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.analysis.profiling import profile_config
from lad.datasets.detection_file import category_names, check_images, labels_of, read_detections
from lad.datasets.teacher_detections import (
    add_to_pipelines,
)
from lad.engine.defaults import survive_interruption
from lad.engine.hooks.detection_files import DetectionFileHook
from lad.engine.loops import ResumableIterBasedTrainLoop
from lad.errors import ConfigError, DataError, UnsupportedError

import pytest
import torch
from dense_detectors import dense
from foreign_teachers import (
    CLASSES,
    DETECTION,
    NAMES,
    RESIZE,
    dataset_of,
    distilled,
    entry,
    file_spec,
    its,
    load,
    write,
)
from helpers import build, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import IterBasedTrainLoop, Runner
from two_stage_detectors import two_stage


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
        ([entry(box=(0, 0, 10**400, 3))], r"entry 0: bbox must be"),
        ([entry(box=(0, 0, 1e300, 3))], r"entry 0: bbox must be"),
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
    nothing = read_detections(write(tmp_path / "nothing.json", []), NAMES)
    with pytest.raises(DataError, match=r"nothing\.json has no detections: .* lower score threshold"):
        check_images(nothing, [1], True, "x")


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
        train_loop=SimpleNamespace(dataloader=SimpleNamespace(dataset=dataset)),  # an epoch-based one
    )
    DetectionFileHook().before_train(runner)
    assert "12 detections" in messages[0]
    data = model.data_preprocessor(pseudo_collate(load(dataset, 0)), True)
    losses = model.loss(data["inputs"], data["data_samples"])
    # The file's boxes are the annotations'.
    torch.testing.assert_close(losses["loss_detections_bbox"], sum(losses["loss_bbox"]))


@pytest.mark.parametrize("loop", [ResumableIterBasedTrainLoop, IterBasedTrainLoop])
@pytest.mark.parametrize("workers", [0, 1])
def test_iteration_based_loops_whose_workers_run_already_load_detections(workers, loop, images):
    """They begin to load in their constructor."""
    model = distilled(dense("rtmdet"), str(images / "found.json"), classes=NAMES)
    runner = SimpleNamespace(
        model=model,
        logger=SimpleNamespace(info=print),
        build_dataloader=Runner.build_dataloader,
        seed=0,
        _randomness_cfg={},
        visualizer=SimpleNamespace(),
    )
    loader = dict(
        dataset=dataset_of(images, [dict(RESIZE, scale=(160, 128))]),
        sampler=dict(type="DefaultSampler", shuffle=False),
        collate_fn=dict(type="pseudo_collate"),
        batch_size=2,
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    if loop is IterBasedTrainLoop:
        loader = Runner.build_dataloader(loader, seed=0)
    runner.train_loop = loop(runner, loader, max_iters=4)
    if loop is ResumableIterBasedTrainLoop:
        runner.train_loop._seek_position(runner.train_loop.batch_sampler)
    DetectionFileHook().before_train(runner)
    for _ in range(3):
        data = model.data_preprocessor(next(runner.train_loop.dataloader_iterator), True)
        assert [len(its(sample)) for sample in data["data_samples"]] == [
            len(sample.gt_instances) for sample in data["data_samples"]
        ]


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


def test_profile_of_a_training_has_no_row_for_a_file_and_its_losses_as_a_part(some_file):
    model = dict(
        type="DistillationDetector", student=small_paa(), teacher=file_spec(some_file), methods=[DETECTION]
    )
    report = profile_config(
        Config(dict(model=model)), shape=(64, 96), batch_size=2, objects=3, device="cpu", steps=1
    )
    assert list(report.networks) == ["student"]
    assert "loss of DetectionDistillation" in str(report)


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
        (dict(min_score=2), "min_score must be between 0 and 1, got 2"),
        (dict(loss_name="x"), "loss_name must contain 'loss'"),
        (dict(loss_weight=-1), "loss_weight must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            distilled(small_paa(), some_file, dict(DETECTION, **settings))
    path = save_checkpoint(build(small_paa(num_classes=5)), tmp_path / "five.pth")
    with pytest.raises(
        UnsupportedError, match=r"the student has 3 classes and the teacher 5.*as a DetectionFile"
    ):
        MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa(),
                teacher=dict(small_paa(num_classes=5), checkpoint=path),
                methods=[DETECTION],
            )
        )
    peers = dict(
        type="DistillationDetector",
        networks=dict(a=small_paa(), b=small_paa()),
        methods=[dict(DETECTION, learner="a", taught_by="b")],
    )
    with pytest.raises(
        UnsupportedError, match=r"DetectionDistillation reads boxes with classes and scores, and teacher"
    ):
        MODELS.build(peers)
