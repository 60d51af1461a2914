"""Detectors of boxes and masks learn and teach: mask heads train by their own loss and are deployed as they are."""

import copy
import logging
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.analysis.profiling import profile_config
from lad.detectors.ensemble import merge
from lad.detectors.masks import samples_for
from lad.engine.hooks import TeacherCheckHook
from lad.errors import ConfigError, UnsupportedError
from lad.networks.mask_boxes import with_boxes
from lad.networks.shapes import check_shapes

import pytest
import torch
from helpers import build, distillation_of, make_batch
from mask_detectors import SEGMENTORS, segmentor
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.structures import InstanceData
from two_stage_detectors import HINT, RCNN, RPN, distil, random_teacher, seeded_loss, two_stage, with_masks

LOGITS = dict(type="RoILogitDistillation")
FEATURES = dict(type="FeatureDistillation", student="neck", teacher="neck", loss=dict(type="CWDLoss"))
SIZE = (128, 128)
DENSE = [kind for kind in SEGMENTORS if kind not in ("mask", "cascade_mask")]


def batch():
    inputs, samples = make_batch((3, 2), SIZE)
    return inputs, with_masks(samples)


def training(*args, **settings):
    return distillation_of(*args, **settings).train()


PAIRS = [
    ("mask", "mask"),
    ("mask", "cascade_mask"),
    ("mask", "faster"),
    ("cascade_mask", "mask"),
    ("cascade_mask", "cascade"),
    ("faster", "mask"),
    ("cascade", "cascade_mask"),
]


@pytest.mark.parametrize(("student", "teacher"), PAIRS)
def test_mask_heads_train_by_their_own_loss_whatever_the_boxes_learn(tmp_path, student, teacher):
    student, teacher = two_stage(student), two_stage(teacher)
    plain = build(student).train()
    expected = seeded_loss(plain, *batch())
    own = {name: value for name, value in expected.items() if "mask" in name}
    assert len(own) == sum("mask_head" in name for name in student.roi_head) * (
        student.roi_head.get("num_stages", 1)
    )
    sum(own.values(), torch.zeros(())).backward() if own else None
    for methods in ([RPN, RCNN], [LOGITS, HINT]):
        model = training(tmp_path, student, teacher, *methods)
        losses = seeded_loss(model, *batch())
        assert {name for name in losses if "mask" in name} == set(own)
        for name, value in own.items():
            torch.testing.assert_close(losses[name], value, rtol=0, atol=0)
        model.parse_losses(losses)[0].backward()
        gradients = dict(plain.named_parameters())
        heads = [(name, weight) for name, weight in model.student.named_parameters() if "mask_head" in name]
        assert bool(heads) == bool(own)
        for name, weight in heads:
            torch.testing.assert_close(weight.grad, gradients[name].grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("with_head", "without"), [("mask", "faster"), ("cascade_mask", "cascade")])
def test_what_a_teachers_mask_head_predicts_changes_nothing(tmp_path, with_head, without):
    """The same teacher without the head."""
    teacher = random_teacher(two_stage(with_head, base=16))
    bare = random_teacher(two_stage(without, base=16))
    bare.load_state_dict(
        {name: value for name, value in teacher.state_dict().items() if "mask_head" not in name}
    )
    student = two_stage("mask")
    found = []
    for network in (teacher, bare):
        torch.manual_seed(0)  # of the hint's connector
        model = distil(tmp_path, [RPN, RCNN, HINT], student, network)
        found.append(seeded_loss(model, *batch()))
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(found[1][name], value, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["mask", "cascade_mask"])
@pytest.mark.parametrize("methods", [[RPN, RCNN], [LOGITS]])
def test_batch_without_proposals_keeps_mask_heads_in_the_graph(tmp_path, kind, methods):
    """MMDetection leaves a cascade after the first stage then."""
    student = two_stage(kind)
    student.train_cfg.rpn_proposal.min_bbox_size = 10_000
    model = training(tmp_path, student, student, *methods)
    inputs, samples = make_batch((0, 0), (64, 64))
    model.parse_losses(seeded_loss(model, inputs, with_masks(samples)))[0].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("kind", DENSE)
@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_dense_segmentors_learn_features_beside_their_own_losses(tmp_path, kind, weight):
    config = segmentor(kind)
    method = dict(FEATURES, loss=dict(type="CWDLoss", loss_weight=weight))
    model = training(tmp_path, config, config, method)
    check_shapes(model)
    losses = seeded_loss(model, *batch())
    for name, value in seeded_loss(build(config).train(), *batch()).items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=0)
    assert "loss_mask" in losses
    assert bool(losses["loss_cwd"] > 0) == bool(weight)
    model.parse_losses(losses)[0].backward()
    assert all(torch.isfinite(each.grad).all() for each in model.parameters() if each.grad is not None)


def test_segmentors_of_different_kinds_teach_each_other_and_detectors_of_boxes(tmp_path):
    pairs = [("condinst", "mask"), ("mask", "solo"), ("yolact", "condinst"), ("faster", "solo")]
    method = dict(FEATURES, student="backbone", teacher="backbone")
    for student, teacher in pairs:
        student = segmentor(student)
        model = training(tmp_path, student, segmentor(teacher, base=16), method)
        losses = seeded_loss(model, *batch())
        assert losses["loss_cwd"] > 0
        for name, value in seeded_loss(build(student).train(), *batch()).items():
            torch.testing.assert_close(losses[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("kind", SEGMENTORS)
def test_the_trained_student_is_a_plain_segmentor_that_predicts_the_same_masks(tmp_path, kind):
    config = segmentor(kind)
    methods = [FEATURES] if kind in DENSE else [RPN, RCNN, HINT]
    model = training(tmp_path, config, config, *methods)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5)
    model.parse_losses(seeded_loss(model, *batch()))[0].backward()
    optimizer.step()
    state = {
        name: value for name, value in model.state_dict().items() if not name.startswith("distillation.")
    }
    plain = MODELS.build(copy.deepcopy(config))
    plain.load_state_dict(state)
    plain.eval()
    model.eval()
    inputs, samples = batch()
    with torch.no_grad():
        found, expected = (
            [sample.pred_instances for sample in each.predict(inputs, copy.deepcopy(samples), rescale=False)]
            for each in (model, plain)
        )
    for own, wanted in zip(found, expected, strict=True):
        assert wanted.masks.shape == (len(wanted), *SIZE)
        for name in ("scores", "labels", "bboxes", "masks"):
            assert torch.equal(own[name], wanted[name])
    assert sum(len(each) for each in expected) > 0


# -- Several networks -------------------------------------------------------------------------------------------------


def rtmdet():
    """RTMDet with the settings of the small RTMDet-Ins, without masks."""
    config = segmentor("rtmdet_ins")
    config.bbox_head.type = "RTMDetSepBNHead"
    del config.bbox_head["loss_mask"]
    return config


NETWORKS = [
    (segmentor("rtmdet_ins"), segmentor("rtmdet_ins")),
    (segmentor("rtmdet_ins"), rtmdet()),
    (two_stage(), two_stage("mask")),
    (segmentor("condinst"), segmentor("solo")),
]


@pytest.mark.parametrize(("first", "second"), NETWORKS)
def test_networks_that_are_trained_together_have_ground_truth_of_their_own(first, second):
    """RTMDet-Ins replaces the masks that it is given; RTMDet cannot read masks."""
    networks = dict(a=first, b=second)
    model = MODELS.build(
        dict(type="DistillationDetector", networks=copy.deepcopy(networks), methods=[])
    ).train()
    for name, network in model.trained_networks.items():
        network.load_state_dict(build(networks[name]).state_dict())
    losses = seeded_loss(model, *batch())
    for name, config in networks.items():
        alone = build(config).train()
        inputs, samples = batch()
        plain = seeded_loss(alone, inputs, samples_for(alone, samples))
        for key, value in plain.items():
            torch.testing.assert_close(losses[f"{name}.{key}"], value, rtol=0, atol=0)


def test_samples_of_a_network_are_its_own_and_have_masks_where_it_learns_them():
    _, samples = batch()
    boxes, masks = (samples_for(build(two_stage(kind)), samples) for kind in ("faster", "mask"))
    assert "masks" not in boxes[0].gt_instances
    assert masks[0].gt_instances.masks is samples[0].gt_instances.masks
    masks[0].gt_instances.masks = torch.zeros(3, *SIZE)
    del masks[0].gt_instances.bboxes
    assert not isinstance(samples[0].gt_instances.masks, torch.Tensor)
    assert "bboxes" in samples[0].gt_instances
    assert boxes[0].metainfo == samples[0].metainfo


def test_an_exit_of_a_segmentor_learns_masks_too():
    config = segmentor("rtmdet_ins")
    model = MODELS.build(
        dict(type="DistillationDetector", student=config, exits=dict(student=dict(early=dict(levels=[0]))))
    ).train()
    losses = seeded_loss(model, *batch())
    assert {"loss_mask", "early.loss_mask"} <= losses.keys()


def instances(boxes, scores, **fields):
    return InstanceData(
        bboxes=torch.tensor(boxes),
        scores=torch.tensor(scores),
        labels=torch.zeros(len(boxes)).long(),
        **fields,
    )


def test_merged_detections_keep_the_masks_that_all_networks_predict():
    boxes = [[0.0, 0.0, 4.0, 4.0], [6.0, 6.0, 8.0, 8.0]]
    first = instances(boxes, [0.9, 0.3], masks=torch.eye(8).bool().expand(2, 8, 8), kernels=torch.zeros(2, 5))
    second = instances(boxes, [0.5, 0.8], masks=torch.ones(2, 8, 8).bool())
    nms = dict(type="nms", iou_threshold=0.5)
    merged = merge([first, second], nms, max_per_img=-1)
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8])
    assert merged.masks.sum(dim=(1, 2)).tolist() == [8, 64]
    assert "kernels" not in merged
    del second.masks
    assert "masks" not in merge([first, second], nms, max_per_img=-1)


@pytest.mark.parametrize("kinds", [("mask", "mask"), ("condinst", "mask"), ("mask", "faster")])
def test_ensembles_of_segmentors_predict(kinds):
    networks = dict(zip("ab", map(segmentor, kinds), strict=True))
    model = MODELS.build(
        dict(type="DistillationDetector", networks=networks, methods=[], predict_with="ensemble")
    ).eval()
    inputs, samples = make_batch((1, 1), SIZE)
    with torch.no_grad():
        found = model.predict(inputs, samples, rescale=False)[0].pred_instances
    assert ("masks" in found) == ("faster" not in kinds)


# -- What else looks at predictions -----------------------------------------------------------------------------------


def test_boxes_of_masks_alone():
    masks = torch.zeros(2, 10, 10).bool()
    masks[0, 2:5, 3:9] = True
    found = with_boxes(instances([[0.0] * 4, [0.0] * 4], [0.9, 0.1], masks=masks))
    assert found.bboxes.tolist() == [[3, 2, 9, 5], [0, 0, 0, 0]]
    # Boxes that are there stay.
    own = instances([[1.0, 1.0, 2.0, 2.0], [0.0] * 4], [0.9, 0.1], masks=masks)
    assert with_boxes(own) is own
    bare = instances([[0.0] * 4], [0.9])
    assert with_boxes(bare) is bare


@pytest.mark.parametrize("kind", ["solo", "mask", "condinst"])
def test_the_check_of_the_teacher_compares_the_boxes_of_what_it_predicts(tmp_path, caplog, kind):
    """A teacher that knows the masks, and SOLO's boxes of zeros."""
    config = segmentor(kind)
    model = training(tmp_path, config, config, FEATURES)

    def predict(inputs, data_samples, rescale):
        for sample in data_samples:
            truth = sample.gt_instances
            masks = torch.zeros(len(truth), *SIZE).bool()
            for mask, (x1, y1, x2, y2) in zip(masks, truth.bboxes.round().int().tolist(), strict=True):
                mask[y1:y2, x1:x2] = True
            boxes = torch.zeros_like(truth.bboxes) if kind == "solo" else truth.bboxes
            sample.pred_instances = InstanceData(
                bboxes=boxes, masks=masks, labels=truth.labels, scores=torch.ones(len(truth))
            )
        return data_samples

    model.teacher.model.predict = predict
    items = []
    for seed in range(4):
        _, samples = make_batch((3,), SIZE, seed=seed)
        items.append(dict(inputs=torch.zeros(3, *SIZE).byte(), data_samples=with_masks(samples)[0]))
    logger = logging.getLogger("segmentation")
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=items))
    with caplog.at_level(logging.INFO, logger="segmentation"):
        TeacherCheckHook(images=4).before_train(SimpleNamespace(model=model, train_loop=loop, logger=logger))
    assert "AP50 1.000" in caplog.text
    assert "WARNING" not in caplog.text


@pytest.mark.parametrize("kind", ["mask", "cascade_mask", "solo", "rtmdet_ins"])
def test_dry_run_and_profile_make_masks(tmp_path, kind):
    config = segmentor(kind)
    text = describe(training(tmp_path, config, config, FEATURES))
    assert "loss_mask" in text
    assert "could not be computed" not in text
    report = profile_config(
        Config(dict(model=config)), shape=SIZE, batch_size=2, objects=2, steps=1, device="cpu"
    )
    assert report.step.steps == 1


# -- What is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "methods", "says"),
    [
        ("mask", [RPN, RCNN], "MaskRCNN has a mask head, which needs labels"),
        ("cascade_mask", [RPN, RCNN], "CascadeRCNN has a mask head, which needs labels"),
        ("mask", [RPN], "no method trains the roi_head of MaskRCNN"),
        ("condinst", [FEATURES], "no method trains the bbox_head and mask_head of CondInst"),
        ("solo", [FEATURES], "no method trains the mask_head of SOLO"),
    ],
)
def test_masks_are_not_learnt_without_labels(tmp_path, kind, methods, says):
    config = segmentor(kind)
    with pytest.raises(UnsupportedError, match=says) as error:
        training(tmp_path, config, config, *methods, student_loss=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["condinst", "yolact"])
def test_parts_of_dense_segmentors_that_do_not_fit_are_found(kind):
    config = segmentor(kind)
    config.neck.in_channels = [8, 16, 32, 65]
    with pytest.raises(ConfigError, match=r"model.neck \(FPN\) cannot take .* it wants 65 channels"):
        check_shapes(build(config))
    config = segmentor(kind)
    config.bbox_head.in_channels = 17
    with pytest.raises(ConfigError, match=r"model.bbox_head .* cannot take .* it wants 17 channels"):
        check_shapes(build(config))


@pytest.mark.parametrize(("kind", "module"), [("mask", "roi_head.mask_head"), ("solo", "mask_head")])
def test_features_of_mask_heads_are_refused_in_one_line(tmp_path, kind, module):
    method = dict(FEATURES, student=module, teacher=module)
    with pytest.raises(UnsupportedError, match="does not see the whole image") as error:
        training(tmp_path, segmentor(kind), segmentor(kind), method)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "module"),
    [("condinst", "mask_head.mask_feature_head"), ("rtmdet_ins", "bbox_head.mask_head")],
)
def test_mask_features_of_the_whole_image_are_taught(tmp_path, kind, module):
    """They are made of the neck's maps alone; the rest of a mask head needs objects and does not run in a teacher."""
    method = dict(FEATURES, student=module, teacher=module)
    model = training(tmp_path, segmentor(kind), segmentor(kind, base=16), method)
    calls = []
    teacher = model.teacher.model
    for name in ("backbone", "bbox_head", "mask_head", module):
        if name in dict(teacher.named_modules()):
            teacher.get_submodule(name).register_forward_hook(lambda *args, name=name: calls.append(name))
    losses = model.loss(*batch())
    [name] = [name for name in losses if "cwd" in name]
    assert losses[name] > 0
    losses[name].backward()
    reached = {
        name for name, value in model.named_parameters() if value.grad is not None and value.grad.any()
    }
    assert any(name.startswith(module) for name in reached)
    assert any(name.startswith("backbone") for name in reached)
    assert calls.count("backbone") == calls.count(module) == 1
    assert "mask_head" not in calls
