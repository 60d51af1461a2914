"""What becomes of a labelled frame."""

import copy

from lad.engine.session import StepResult
from lad.errors import ConfigError, UnsupportedError
from lad.online.detector import as_labels, check_no_shift, class_map, training_batch
from lad.online.settings import OnlineSettings
from lad.online.trainer import MAX_HELD_BACK

import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from online_streams import Scripted, found, frame_detector, scripted_trainer

IMAGE = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
LABELS = found([4, 4, 30, 30], [32, 8, 60, 40])
HALF = found([4, 4, 30, 30])  # F1 2/3
NOTHING = found()


def weights(owner):
    """State of a session, or of a trainer's."""
    state = copy.deepcopy(owner.state_dict())
    return state.get("session", state)


def same(first, second):
    """Whether weights and optimizers are equal to the bit."""
    momenta = [
        [state["momentum_buffer"] for state in one["optimizer"]["state"].values()] for one in (first, second)
    ]
    return (
        all(torch.equal(first["state_dict"][name], value) for name, value in second["state_dict"].items())
        and len(momenta[0]) == len(momenta[1])
        and all(torch.equal(*pair) for pair in zip(*momenta, strict=True))
    )


def test_updates_end_when_the_frame_is_learnt():
    trainer, session = scripted_trainer(Scripted(LABELS), NOTHING, HALF, LABELS)
    outcome = trainer.learn(5, IMAGE, NOTHING)
    assert (outcome.frame, outcome.labels, outcome.updates, outcome.ending) == (5, 2, 3, "trained")
    assert (outcome.before, outcome.updated, outcome.f1) == (0.0, 1.0, 1.0)
    assert outcome.loss > 0
    assert session.steps == 3


def test_updates_end_when_they_are_used_up():
    trainer, _ = scripted_trainer(Scripted(LABELS), HALF)
    outcome = trainer.learn(0, IMAGE, NOTHING)
    assert (outcome.updates, outcome.ending) == (8, "trained")
    assert outcome.f1 == pytest.approx(2 / 3)


def test_frame_that_is_known_is_not_trained_on():
    trainer, session = scripted_trainer(Scripted(LABELS), NOTHING)
    before = weights(session)
    outcome = trainer.learn(0, IMAGE, LABELS)
    assert (outcome.updates, outcome.ending, outcome.f1) == (0, "unchanged", 1.0)
    assert same(before, weights(session))


def test_worse_student_is_held_back_and_trained_on():
    trainer, session = scripted_trainer(Scripted(LABELS), *[HALF] * 8, *[NOTHING] * 9, LABELS)
    trainer.learn(0, IMAGE, NOTHING)
    good = weights(trainer)
    outcome = trainer.learn(8, IMAGE, HALF)
    assert (outcome.updates, outcome.ending, outcome.updated) == (8, "held back", 0.0)
    assert outcome.f1 == outcome.before == pytest.approx(2 / 3)
    served = trainer.served_weights()
    assert all(torch.equal(served[name], value) for name, value in good["state_dict"].items())
    assert not same(good, weights(trainer))
    # On the next frame the trained weights are better than what was served.
    outcome = trainer.learn(16, IMAGE, HALF)
    assert (outcome.updates, outcome.ending, outcome.f1) == (1, "trained", 1.0)
    assert session.steps == 17
    served = trainer.served_weights()
    assert all(torch.equal(served[name], value) for name, value in weights(trainer)["state_dict"].items())


def test_trained_weights_may_know_a_frame_already():
    trainer, session = scripted_trainer(Scripted(LABELS), *[NOTHING] * 8, LABELS)
    trainer.learn(0, IMAGE, HALF)
    outcome = trainer.learn(8, IMAGE, HALF)
    assert (outcome.updates, outcome.ending, outcome.f1, session.steps) == (0, "trained", 1.0, 8)


def test_training_that_does_not_come_back_begins_again():
    trainer, session = scripted_trainer(Scripted(LABELS), NOTHING)
    begin = weights(trainer)
    for frame in range(MAX_HELD_BACK):
        assert not frame or not same(begin, weights(trainer))
        assert trainer.learn(frame, IMAGE, HALF).ending == "held back"
    assert same(begin, weights(trainer))
    # The random numbers go on.
    assert session.steps == 8 * MAX_HELD_BACK
    assert trainer.state_dict()["good"] is None


def test_state_holds_what_is_served_and_what_is_trained():
    first, _ = scripted_trainer(Scripted(LABELS), NOTHING)
    first.learn(0, IMAGE, HALF)
    state = copy.deepcopy(first.state_dict())
    assert (state["held_back"], state["session"]["steps"]) == (1, 8)
    second, _ = scripted_trainer(Scripted(LABELS), NOTHING, seed=3)
    second.load_state_dict(state)
    for trainer in (first, second):
        trainer.learn(8, IMAGE, HALF)
    assert same(weights(first), weights(second))
    served = first.served_weights(), second.served_weights()
    assert all(torch.equal(served[0][name], value) for name, value in served[1].items())


def test_teacher_that_finds_nothing_teaches_nothing():
    trainer, session = scripted_trainer(Scripted(NOTHING), NOTHING)
    before = weights(session)
    outcome = trainer.learn(0, IMAGE, HALF)
    assert (outcome.labels, outcome.updates, outcome.ending, outcome.f1) == (0, 0, "no objects", 0.0)
    assert trainer.learn(1, IMAGE, NOTHING).f1 == 1.0
    assert same(before, weights(session))


def test_frame_whose_objects_vanish_in_the_students_input_is_not_trained_on():
    """As a frame in which the teacher finds nothing: the student would learn that there is nothing."""
    large = np.random.default_rng(0).integers(0, 255, (1920, 1920, 3), dtype=np.uint8)
    far = found([100, 100, 125, 125], [300, 700, 328, 722])  # less than a pixel in 64 x 64
    trainer, session = scripted_trainer(Scripted(far), NOTHING)
    before = weights(session)
    outcome = trainer.learn(0, large, NOTHING)
    assert (outcome.labels, outcome.updates, outcome.ending, outcome.f1) == (2, 0, "no objects", 0.0)
    assert same(before, weights(session))
    near = found([100, 100, 125, 125], [300, 700, 900, 1000])
    trainer, session = scripted_trainer(Scripted(near), NOTHING)
    assert trainer.learn(0, large, NOTHING).updates == 8


def test_step_that_is_not_finite_ends_the_frame():
    trainer, session = scripted_trainer(Scripted(LABELS), HALF)
    session.step = lambda batch: StepResult({}, "loss_cls is nan")
    outcome = trainer.learn(0, IMAGE, HALF)
    assert (outcome.updates, outcome.faults, outcome.ending) == (0, ("loss_cls is nan",), "unchanged")
    assert outcome.f1 == pytest.approx(2 / 3)


def test_labels_are_the_teachers_detections_in_the_students_classes():
    classes = class_map(("a", "b"), ("dog", "b", "a"))
    assert classes.tolist() == [-1, 1, 0]
    labels = as_labels(found([0, 0, 1, 1], [1, 1, 2, 2], [2, 2, 3, 3], labels=[0, 1, 2]), classes)
    assert labels.labels.tolist() == [1, 0]
    assert labels.bboxes[:, 0].tolist() == [1, 2]


def test_class_that_the_teacher_does_not_know_is_refused():
    with pytest.raises(ConfigError, match="'b', which the student would unlearn"):
        class_map(("a", "b"), ("a",))


def test_boxes_follow_the_frame_into_the_networks_input():
    detector = frame_detector(size=128)
    batch = training_batch(detector.prepare(IMAGE), found([4, 4, 30, 30], [60, 40, 90, 90], [70, 0, 80, 9]))
    (image,), (sample,) = batch["inputs"], batch["data_samples"]
    assert image.shape == (3, 96, 128)
    # Twice as large; clipped; what is outside of the frame has no area.
    assert sample.gt_instances.bboxes.tolist() == [[8, 8, 60, 60], [120, 80, 128, 96]]
    assert sample.gt_instances.labels.tolist() == [0, 0]


def test_detections_are_in_pixels_of_the_frame():
    small, large = frame_detector(size=64), frame_detector(size=128)
    for detector in (small, large):
        boxes = detector.detect(detector.prepare(IMAGE)).bboxes
        assert (boxes[:, 0::2] <= 64).all()
        assert (boxes[:, 1::2] <= 48).all()
    assert not any(parameter.requires_grad for parameter in [boxes])


def test_detecting_leaves_the_training_mode_alone():
    detector = frame_detector()
    detector.model.train()
    detector.detect(detector.prepare(IMAGE))
    assert detector.model.training
    assert detector.model.bbox_head.training


@pytest.mark.parametrize(
    ("meta", "told"),
    [
        (dict(img_shape=(64, 64), pad_param=np.array([8, 8, 0, 0])), "pads on the left or above"),
        (dict(img_shape=(40, 64)), "crops the frame"),
    ],
)
def test_pipeline_that_shifts_images_is_refused(meta, told):
    sample = DetDataSample(metainfo=dict(ori_shape=(48, 64), scale_factor=(1.0, 1.0), **meta))
    with pytest.raises(UnsupportedError, match=told):
        check_no_shift(sample)


def test_padding_behind_the_image_is_no_shift():
    check_no_shift(
        DetDataSample(metainfo=dict(ori_shape=(48, 64), scale_factor=(1.0, 1.0), img_shape=(64, 64)))
    )


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (dict(min_strid=8), r"no setting 'min_strid'; nearest: min_stride"),
        (dict(teacher_score="high"), "must be a number, got 'high'"),
        (dict(norm_eval=1), "must be True or False"),
        (dict(object_weight=0), "object_weight must be above 0"),
        (dict(student_score=2), "student_score must be from 0 to 1"),
        (dict(max_updates=True), "must be a whole number"),
        (dict(min_stride=8.0), "must be a whole number"),
    ],
)
def test_wrong_settings_are_one_line(config, told):
    with pytest.raises(ConfigError, match=told):
        OnlineSettings.from_config(config)


def test_settings_of_a_config():
    settings = OnlineSettings.from_config(dict(max_stride=32, teacher_score=0.3, norm_eval=False), seed=4)
    assert (settings.rules.min_stride, settings.rules.max_stride) == (8, 32)
    assert (settings.teacher_score, settings.student_score, settings.norm_eval, settings.seed) == (
        0.3,
        0.5,
        False,
        4,
    )
