"""Teachers whose outputs are kept on disk, for methods that read features, logits or detections."""

from __future__ import annotations

import copy
import re
import shutil

from lad.errors import ConfigError, UnsupportedError
from lad.networks.cache import FINGERPRINT
from lad.networks.remembered import RememberedTeacher

import pytest
import torch
from detr_detectors import small_detr
from helpers import build, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from two_stage_detectors import two_stage

FEATURES = dict(type="FeatureDistillation", student="neck", teacher="neck", loss=dict(type="PKDLoss"))
LOGITS = dict(type="DenseLogitDistillation")
CROSS = dict(type="CrossHeadDistillation")
SOFT = dict(type="SoftLabelDistillation")
DETECTIONS = dict(type="DetectionDistillation", targets="hard", min_score=0.0)


def pixels(count=3, seed=0, shapes=None):
    """A batch as the data loader gives it; each image has its own pixels whatever the others are."""
    inputs, samples = make_batch((2,) * count, seed=seed, shapes=shapes)
    shapes = shapes or [tuple(inputs.shape[2:])] * count
    images = [
        (torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed + i)) * 255).byte()
        for i, shape in enumerate(shapes)
    ]
    return dict(inputs=images, data_samples=samples)


def part(data, images):
    return dict(
        inputs=[data["inputs"][image] for image in images],
        data_samples=[data["data_samples"][image] for image in images],
    )


def distil(folder, *methods, cache=True, student=None, teacher=None, seed=1, speed=None, **settings):
    """A student and a teacher in eval mode, and the numbers of images that the teacher's backbone is shown."""
    student, teacher = student or small_paa(), teacher or small_paa(base=16)
    path = save_checkpoint(build(teacher, seed), folder / f"teacher{seed}.pth")
    kept = dict(cache=dict(dir=str(folder / "cache"), **settings)) if cache else {}
    torch.manual_seed(0)  # connectors
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path, speed=speed or {}, **kept),
            methods=copy.deepcopy(list(methods)),
        )
    )
    model.student.load_state_dict(build(student).state_dict())
    calls = []
    model.teacher.model.backbone.register_forward_hook(
        lambda module, args, output: calls.append(len(args[0]))
    )
    return model.eval(), calls


def losses_of(model, data):
    prepared = model.data_preprocessor(copy.deepcopy(data), True)
    torch.manual_seed(0)
    losses = model.loss(prepared["inputs"], prepared["data_samples"])
    return {name: float(sum(value) if isinstance(value, list) else value) for name, value in losses.items()}


@pytest.mark.parametrize(
    ("method", "student", "teacher"),
    [
        (FEATURES, small_paa, small_paa),
        (LOGITS, small_paa, small_paa),
        (CROSS, small_paa, small_paa),
        (SOFT, small_paa, small_paa),
        (DETECTIONS, small_paa, small_paa),
        (dict(FEATURES, student="backbone.layer3", teacher="backbone.layer3"), small_paa, small_paa),
        (dict(type="RPNDistillation"), two_stage, two_stage),
        (dict(type="RoILogitDistillation"), two_stage, two_stage),
        (FEATURES, small_paa, two_stage),
    ],
    ids=lambda value: value.get("type") if isinstance(value, dict) else "",
)
def test_remembered_losses_equal_the_live_ones_and_the_teacher_does_not_run(
    tmp_path, method, student, teacher
):
    """From the run that stores them, in the same run and in another one."""
    networks = dict(student=student(), teacher=teacher(base=16))
    expected = losses_of(distil(tmp_path, method, cache=False, **networks)[0], pixels())
    model, calls = distil(tmp_path, method, **networks)
    for shown in ([3], [3]):
        assert losses_of(model, pixels()) == pytest.approx(expected, rel=1e-6, abs=1e-6)
        assert calls == shown
    other, calls = distil(tmp_path, method, **networks)
    assert losses_of(other, pixels()) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert calls == []


def test_only_images_without_a_record_are_computed_and_stand_in_their_places(tmp_path):
    model, calls = distil(tmp_path, FEATURES)
    data = pixels(4)
    losses_of(model, part(data, [2, 0]))
    found = losses_of(model, data)
    assert calls == [2, 2]
    live = losses_of(distil(tmp_path, FEATURES, cache=False)[0], data)
    assert found == pytest.approx(live, rel=1e-5, abs=1e-6)


def test_outputs_are_those_of_the_live_teacher_to_the_bit(tmp_path):
    model, calls = distil(tmp_path, FEATURES)
    prepared = model.data_preprocessor(pixels(2), True)
    given = prepared["inputs"], prepared["data_samples"], ("neck", "bbox_head")
    first, again = model.teacher.run(*given), model.teacher.run(*given)
    assert calls == [2]
    live = super(RememberedTeacher, model.teacher).run(*given)
    for name in ("neck", "bbox_head"):
        for outputs in (first, again):
            torch.testing.assert_close(outputs.calls(name), live.calls(name), rtol=0, atol=0)


def test_image_in_a_batch_that_is_padded_further_is_another_record(tmp_path):
    """The zeros beside an image change what a network sees at its border."""
    model, calls = distil(tmp_path, FEATURES)
    data = pixels(3, shapes=[(64, 96), (64, 96), (96, 128)])
    losses_of(model, part(data, [0, 1]))
    losses_of(model, data)
    assert calls == [2, 3]


def test_other_weights_speed_and_precision_have_records_of_their_own(tmp_path):
    for settings in (dict(), dict(seed=2), dict(speed=dict(bfloat16=True)), dict(speed=dict(fuse=True))):
        model, calls = distil(tmp_path, FEATURES, **settings)
        losses_of(model, pixels())
        assert calls == [3], settings
    model, calls = distil(tmp_path, FEATURES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses_of(model, pixels())
    assert calls == [3]


@pytest.mark.parametrize("speed", [dict(inference_mode=True), dict(channels_last=True), dict(bfloat16=True)])
def test_options_of_a_teacher_hold(tmp_path, speed):
    expected = losses_of(distil(tmp_path, FEATURES, cache=False, speed=speed)[0], pixels())
    model, calls = distil(tmp_path, FEATURES, speed=speed)
    for _ in range(2):
        assert losses_of(model, pixels()) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert calls == [3]


def test_folder_is_bounded_and_a_full_one_is_still_read(tmp_path):
    def kept():
        return sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.bin"))

    model, _ = distil(tmp_path, FEATURES)
    losses_of(model, pixels(3))
    limit = kept() // 2
    shutil.rmtree(tmp_path / "cache")
    model, calls = distil(tmp_path, FEATURES, max_gb=limit / 1e9)
    for _ in range(2):
        losses_of(model, pixels(3))
    assert 0 < kept() <= limit
    assert calls == [3, 2]


def test_two_methods_share_the_records_of_one_teacher(tmp_path):
    model, calls = distil(tmp_path, FEATURES, LOGITS)
    for _ in range(2):
        losses_of(model, pixels())
    assert calls == [3]


def test_teacher_whose_maps_and_detections_are_read_is_remembered_for_both(tmp_path):
    model, calls = distil(tmp_path, FEATURES, DETECTIONS)
    for _ in range(2):
        losses_of(model, pixels())
    assert calls == [3], "one pass for the maps and the detections, in the first step"


def test_gradients_are_those_with_the_live_teacher(tmp_path):
    gradients = []
    for cache in (False, True):
        model, _ = distil(tmp_path, FEATURES, cache=cache)
        for _ in range(2):
            model.zero_grad()
            prepared = model.data_preprocessor(pixels(), True)
            total, _ = model.parse_losses(model.loss(prepared["inputs"], prepared["data_samples"]))
            total.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    for name, wanted in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], wanted, rtol=1e-5, atol=1e-6)


def test_nothing_is_written_for_images_that_no_pipeline_made(tmp_path):
    """As in a dry run, a profile or an evaluation."""
    model, calls = distil(tmp_path, FEATURES)
    inputs, samples = make_batch((1, 2))
    for _ in range(2):
        model.loss(inputs, copy.deepcopy(samples))
    assert calls == [2, 2]
    assert not (tmp_path / "cache").exists()


def test_fingerprints_are_taken_for_a_remembered_teacher_alone(tmp_path):
    for cache in (True, False):
        model, _ = distil(tmp_path, FEATURES, cache=cache)
        prepared = model.data_preprocessor(pixels(), True)
        assert all((FINGERPRINT in sample.metainfo) is cache for sample in prepared["data_samples"])


def test_what_cannot_work_is_refused_when_built(tmp_path):
    for cache in ({}, dict(max_gb=1.0), "folder", True, dict(dir=5)):
        path = save_checkpoint(build(small_paa(base=16), 1), tmp_path / "teacher.pth")
        teacher = dict(small_paa(base=16), checkpoint=path, cache=cache)
        wanted = rf"teacher: cache must be dict\(dir=FOLDER.*, got {re.escape(repr(cache))}"
        with pytest.raises(ConfigError, match=wanted):
            MODELS.build(
                dict(type="DistillationDetector", student=small_paa(), teacher=teacher, methods=[FEATURES])
            )
    student = small_paa()
    resize = dict(type="BatchSyncRandomResize", random_size_range=(64, 128), interval=1, size_divisor=32)
    student.data_preprocessor.batch_augments = [resize]
    with pytest.raises(UnsupportedError, match="teacher: batch_augments change images"):
        distil(tmp_path, FEATURES, student=student)
    encoder = dict(FEATURES, student="encoder", teacher="encoder", loss=dict(type="HintLoss"))
    detrs = dict(student=small_detr("one_stage"), teacher=small_detr("one_stage", base=16))
    with pytest.raises(UnsupportedError, match="leave it out for a method that reads 'encoder'") as refused:
        distil(tmp_path, encoder, **detrs)
    assert "\n" not in str(refused.value)


def test_unknown_option_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match=r"teacher: cache has no option 'max_mb'; nearest: max_gb"):
        distil(tmp_path, FEATURES, max_mb=3)
    with pytest.raises(ConfigError, match="report_every must be a number of look-ups, got 0"):
        distil(tmp_path, FEATURES, report_every=0)
