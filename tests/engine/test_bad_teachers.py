"""Teachers whose weights or outputs are not finite are named, once a loss was not."""

import copy
from unittest import mock

from lad.engine.hooks import NumericalFaultHook, numerical_faults
from lad.engine.hooks.bad_teachers import bad_teachers
from lad.errors import NumericalError

import pytest
import torch
from dense_detectors import dense
from helpers import build, make_batch, save_checkpoint, small_paa
from mmdet.registry import MODELS
from mmengine.runner import Runner
from two_stage_detectors import two_stage

KD, HINT = (
    dict(type="DenseLogitDistillation"),
    dict(type="HintDistillation", student="neck[0]", teacher="neck[0]"),
)
RETINA = dense("retinanet")
#: Large enough that a layer's outputs overflow float32, and still finite.
HUGE = 3e38


def detector(methods, **networks):
    return MODELS.build(
        copy.deepcopy(dict(type="DistillationDetector", methods=methods, **({"student": RETINA} | networks)))
    ).train()


def frozen(folder, name, config=RETINA):
    path = save_checkpoint(build(config), folder / f"{name}.pth")
    return dict(config, checkpoint=path)


def images_and_samples(count=2):
    """A batch as the pipeline leaves it."""
    samples = make_batch((2,) * count, size=(64, 96))[1]
    generator = torch.Generator().manual_seed(0)
    images = [torch.randint(256, (3, 64, 96), generator=generator, dtype=torch.uint8) for _ in samples]
    return dict(inputs=images, data_samples=samples)


@torch.no_grad()
def fill(model, name, value):
    dict(model.named_parameters())[name].fill_(value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_of_a_frozen_teacher_are_named(value, tmp_path):
    model = detector([KD], teacher=frozen(tmp_path, "teacher"))
    assert bad_teachers(model, images_and_samples()) == ""
    fill(model.teacher.model, "bbox_head.retina_reg.weight", value)
    assert bad_teachers(model, images_and_samples()) == (
        "teacher 'teacher' has weights that are not finite (bbox_head.retina_reg.weight): its checkpoint is damaged"
    )


@pytest.mark.parametrize(
    ("layer", "place"),
    [("retina_reg", "bbox_head output 1"), ("retina_cls", "bbox_head output 0")],
)
def test_of_an_ensemble_the_member_and_its_output_are_named(layer, place, tmp_path):
    teachers = {name: frozen(tmp_path, name) for name in ("weak", "strong")}
    model = detector([dict(KD, taught_by=["weak", "strong"], ensemble="average")], teachers=teachers)
    fill(model.teachers["strong"].model, f"bbox_head.{layer}.weight", HUGE)
    found = bad_teachers(model, images_and_samples())
    assert found.startswith(f"teacher 'strong' gives values that are not finite ({place}): look at")
    assert "weak" not in found
    fill(model.teachers["weak"].model, f"bbox_head.{layer}.weight", HUGE)
    found = bad_teachers(model, images_and_samples())
    assert all(f"teacher {name!r} gives values that are not finite ({place})" in found for name in teachers)


def test_what_no_method_reads_is_not_looked_at(tmp_path):
    teachers = {name: frozen(tmp_path, name) for name in ("used", "unused")}
    model = detector([dict(HINT, taught_by="used")], teachers=teachers)
    for teacher in model.teachers.values():  # a hint reads the neck alone
        fill(teacher.model, "bbox_head.retina_cls.weight", HUGE)
    fill(model.teachers["unused"].model, "neck.fpn_convs.0.conv.weight", HUGE)
    assert bad_teachers(model, images_and_samples()) == ""
    fill(model.teachers["used"].model, "neck.fpn_convs.0.conv.weight", HUGE)
    assert bad_teachers(model, images_and_samples()).startswith(
        "teacher 'used' gives values that are not finite (neck"
    )


def test_peers_and_snapshots_are_named(tmp_path):
    networks = dict(student=None, networks=dict(small=RETINA, big=RETINA), deploy="small")
    snapshot = dict(teachers=dict(before=dict(snapshot_of="small", at="start")))
    methods = [dict(KD, taught_by="big"), dict(KD, taught_by="before")]
    model = detector(methods, **networks, **snapshot)
    model.take_missing_snapshots()
    before = copy.deepcopy(model.state_dict())
    assert bad_teachers(model, images_and_samples()) == ""
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.trained_networks["big"].training
    fill(model.trained_networks["big"], "bbox_head.retina_cls.weight", HUGE)
    assert bad_teachers(model, images_and_samples()).startswith(
        "teacher 'big' gives values that are not finite (bbox"
    )
    fill(model.teachers["before"].model, "neck.lateral_convs.0.conv.bias", float("nan"))
    assert bad_teachers(model, images_and_samples()).startswith(
        "teacher 'before' has weights that are not finite (neck"
    )


def test_networks_that_teach_each_other_are_named():
    networks = dict(student=None, networks=dict(a=RETINA, b=RETINA))
    model = detector([dict(type="MutualLogitDistillation")], **networks)
    assert bad_teachers(model, images_and_samples()) == ""
    fill(model.trained_networks["b"], "bbox_head.retina_cls.weight", HUGE)
    found = bad_teachers(model, images_and_samples())
    assert found.startswith("teacher 'b' gives values that are not finite (bbox_head output 0)")
    assert "'a'" not in found


def test_an_roi_head_that_scores_the_students_proposals_is_named_by_its_weights(tmp_path):
    config = two_stage()
    model = detector(
        [dict(type="RCNNDistillation")], student=config, teacher=frozen(tmp_path, "teacher", config)
    )
    fill(model.teacher.model, "roi_head.bbox_head.fc_cls.bias", float("nan"))
    found = bad_teachers(model, images_and_samples())
    assert "has weights that are not finite (roi_head.bbox_head.fc_cls.bias)" in found


def test_a_plain_detector_has_no_teachers():
    assert bad_teachers(build(RETINA), images_and_samples()) == ""


class Pictures:
    metainfo = {}

    def __len__(self):
        return 6

    def __getitem__(self, index):
        batch = images_and_samples(count=index + 1)
        return dict(inputs=batch["inputs"][-1], data_samples=batch["data_samples"][-1])


def runner(folder, model, **options):
    return Runner(
        model=model,
        work_dir=str(folder),
        train_dataloader=dict(
            dataset=Pictures(),
            batch_size=2,
            num_workers=0,
            sampler=dict(type="DefaultSampler", shuffle=False),
            collate_fn=dict(type="pseudo_collate"),
        ),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=1e-9)),
        custom_hooks=[NumericalFaultHook(**options)],
        experiment_name=folder.name,
        default_scope="mmdet",
    )


def test_the_error_names_the_teacher_and_sound_steps_do_not_look_for_one(tmp_path):
    teachers = {name: frozen(tmp_path, name) for name in ("weak", "strong")}
    model = detector([dict(KD, taught_by=name, name=name) for name in teachers], teachers=teachers)
    with mock.patch.object(numerical_faults, "bad_teachers", wraps=bad_teachers) as looked:
        runner(tmp_path / "sound", model).train()
        looked.assert_not_called()
        fill(model.teachers["strong"].model, "bbox_head.retina_cls.weight", float("nan"))
        with pytest.raises(NumericalError) as caught:
            runner(tmp_path / "broken", model).train()
        assert looked.call_count == 1
    message = str(caught.value)
    assert "iteration 1 of epoch 1: strong.loss_kd is nan for image 0" in message
    assert "teacher 'strong' has weights that are not finite (bbox_head.retina_cls.weight)" in message
    assert "weights and images are finite" not in message
    assert "\n" not in message


def test_a_label_assignment_that_refuses_the_teachers_nan_names_it_too(tmp_path):
    config = small_paa()
    model = detector(
        [dict(type="LabelAssignmentDistillation")],
        student=config,
        teacher=frozen(tmp_path, "teacher", config),
    )
    fill(model.teacher.model, "bbox_head.atss_reg.bias", float("nan"))
    with pytest.raises(
        NumericalError, match=r"teacher 'teacher' has weights that are not finite \(bbox_head.atss_reg"
    ):
        runner(tmp_path / "lad", model).train()
