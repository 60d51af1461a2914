"""Heads that ask an assigner with their predictions: what they decide when a teacher's predictions take their place."""

import copy

from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.exchange.replay import AssignerCall
from lad.exchange.seams import SEAMS, find_seam
from lad.heads.dense import DensePredictions

import pytest
import torch
from helpers import build, fake_cuda, make_batch, small_detector
from mmdet.models.task_modules import AssignResult, TaskAlignedAssigner
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from seam_detectors import FAMILIES, SITES, decisions, distil, loss_of, set_epoch, small

BATCH = dict(objects=(3, 0, 7), size=(128, 160), shapes=[(100, 160), (128, 120), (128, 160)])


@pytest.fixture(autouse=True)
def _past_initial_epochs():
    set_epoch(5)


def ignoring(batch):
    """The batch with a region to be ignored in each image."""
    for sample in batch[1]:
        sample.ignored_instances = InstanceData(
            bboxes=torch.tensor([[10.0, 10.0, 90.0, 90.0]]), labels=torch.tensor([0])
        )
    return batch


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_with_the_students_weights_changes_no_loss(family, mode, tmp_path):
    config = small(family)
    if family == "ddod":
        config.train_cfg.assigner.ignore_iof_thr = 0.5  # the one assigner that looks at ignored regions
    model = distil(config, config, tmp_path, weights=(0, 0), mode=mode)
    # Images without objects, of several sizes in one batch, and batches of several sizes, one without any object.
    for batch in (ignoring(make_batch(**BATCH)), make_batch((2, 5), size=(96, 96)), make_batch((0, 0))):
        plain, taught = loss_of(model.student, batch), loss_of(model, batch)
        assert plain.keys() == taught.keys()
        for name, value in plain.items():
            torch.testing.assert_close(taught[name], value, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["hard", "soft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_positives_are_exactly_those_of_the_teacher_alone(family, mode, tmp_path):
    model = distil(small(family), small(family, base=16), tmp_path, mode=mode)
    batch = make_batch(**BATCH)
    taught = decisions(model, batch)
    teachers = decisions(model.teacher.model, batch)
    own = decisions(model.student, batch)
    assert len(taught) == len(teachers) >= 2 * len(SITES[family])
    for result, wanted in zip(taught, teachers, strict=True):
        assert torch.equal(result.gt_inds, wanted.gt_inds)
        assert torch.equal(result.labels, wanted.labels)
    assert sum(int((result.gt_inds > 0).sum()) for result in taught) > 10
    assert any(not torch.equal(a.gt_inds, b.gt_inds) for a, b in zip(taught, own, strict=True)), "the control"


@pytest.mark.parametrize("family", ["tood", "rtmdet", "yolox"])
def test_soft_replays_the_teachers_qualities_and_hard_the_students_own(family, tmp_path):
    batch = make_batch(**BATCH)
    found = {}
    for mode in ("hard", "soft"):
        model = distil(small(family), small(family, base=16), tmp_path, mode=mode)
        found[mode] = decisions(model, batch)
    teachers = decisions(model.teacher.model, batch)
    differ = 0
    for hard, soft, wanted in zip(found["hard"], found["soft"], teachers, strict=True):
        positive = wanted.gt_inds > 0
        assert torch.equal(soft.max_overlaps, wanted.max_overlaps)
        # The IoU of the student's own box with its object, one positive after the other.
        for prior in positive.nonzero()[:, 0]:
            box = hard.asked.pred_instances.bboxes[prior]
            target = hard.asked.gt_instances.bboxes[hard.gt_inds[prior] - 1]
            torch.testing.assert_close(hard.max_overlaps[prior], bbox_overlaps(box[None], target[None])[0, 0])
        differ += int((hard.max_overlaps != soft.max_overlaps)[positive].sum())
        assert torch.equal(hard.max_overlaps[~positive], wanted.max_overlaps[~positive])
        if family == "tood":
            assert torch.equal(soft.assign_metrics, wanted.assign_metrics)
            assert (hard.assign_metrics[~positive] == 0).all()
    assert differ > 10


def test_toods_hard_quality_is_score_times_iou_to_the_sixth():
    """Score 0.8 for the object's class, IoU 1/2: 0.8 * 0.5**6 = 0.0125; the teacher's 0.3 stays out."""
    own = InstanceData(
        priors=torch.zeros(2, 4),
        scores=torch.tensor([[0.1, 0.8], [0.9, 0.9]]),
        bboxes=torch.tensor([[0.0, 0.0, 4.0, 2.0], [0.0, 0.0, 1.0, 1.0]]),
    )
    gt_instances = InstanceData(bboxes=torch.tensor([[0.0, 0.0, 4.0, 4.0]]), labels=torch.tensor([1]))
    result = AssignResult(1, torch.tensor([1, 0]), torch.tensor([0.9, -1e8]), torch.tensor([1, -1]))
    result.assign_metrics = torch.tensor([0.3, 0.0])
    arguments = dict(pred_instances=own, gt_instances=gt_instances, alpha=1, beta=6)
    seam = next(row for row in SEAMS if "TOODHead" in row.works_with)
    seam.update_qualities(
        AssignerCall("alignment_assigner", 0, TaskAlignedAssigner(topk=1), arguments), result
    )
    torch.testing.assert_close(result.assign_metrics, torch.tensor([0.0125, 0.0]))
    torch.testing.assert_close(result.max_overlaps, torch.tensor([0.5, -1e8]))


def test_tood_is_trained_plainly_and_without_running_the_teacher_in_its_initial_epochs(tmp_path):
    model = distil(small("tood"), small("tood", base=16), tmp_path)
    batch = make_batch(**BATCH)
    set_epoch(0)

    def forbidden(*args):
        raise AssertionError("the teacher was run")

    handle = model.teacher.model.backbone.register_forward_pre_hook(forbidden)
    plain, taught = loss_of(model.student, batch), loss_of(model, batch)
    assert plain.keys() == taught.keys()
    assert all(torch.equal(taught[name], plain[name]) for name in plain)
    handle.remove()
    set_epoch(1)  # small() has one initial epoch
    assert not torch.equal(loss_of(model, batch)["loss_cls"], loss_of(model.student, batch)["loss_cls"])


@pytest.mark.parametrize("family", FAMILIES)
def test_head_is_as_before_after_a_step_and_after_an_exception(family, tmp_path):
    model = distil(small(family), small(family), tmp_path)
    head = model.bbox_head
    before = {site: getattr(head, site) for site in SITES[family]}
    loss_of(model, make_batch(**BATCH))
    assert all(getattr(head, site) is value for site, value in before.items())

    def broken(pred_instances, gt_instances, *args, **kwargs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), replaced(before[SITES[family][-1]], "assign", broken):
        loss_of(model, make_batch(**BATCH))
    assert all(getattr(head, site) is value for site, value in before.items())
    assert all(site not in vars(type(head)) for site in SITES[family])


@pytest.mark.parametrize("family", FAMILIES)
def test_what_the_teacher_said_is_copied_before_an_assigner_sees_it(family, tmp_path):
    """An assigner that writes into what it is given (SimOTA's own head takes roots in place) spoils nothing."""
    model = distil(small(family), small(family, base=16), tmp_path)
    inputs, samples = make_batch(**BATCH)
    outputs = model.teacher.run(inputs, samples, ["bbox_head"])["bbox_head"]
    before = copy.deepcopy(outputs)
    seam = find_seam(model.student, model.teacher.model)
    predictions = seam.predictions(model.teacher.model.bbox_head, outputs)
    predictions.scores.fill_(0)
    predictions.bboxes.fill_(0)
    for kind, wanted in zip(outputs, before, strict=True):
        assert all(torch.equal(level, same) for level, same in zip(kind, wanted, strict=True))


@pytest.mark.parametrize("family", FAMILIES)
def test_predictions_and_qualities_are_computed_on_the_device_without_waiting(family, tmp_path):
    model = build(small(family))
    row = next(row for row in SEAMS if row.fits(model.bbox_head))
    channels = dict(tood=(3, 4), rtmdet=(3, 4), yolox=(3, 4, 1), ddod=(3, 4, 1))[family]
    sizes = [(16, 20), (8, 10), (4, 5), (2, 3), (1, 2)][: len(model.bbox_head.prior_generator.strides)]
    with fake_cuda():
        outputs = tuple([torch.rand(2, c, *size, device="cuda") for size in sizes] for c in channels)
        found = row.predictions(model.bbox_head, outputs)
        own = InstanceData(scores=found.scores[0], bboxes=found.bboxes[0])
        gt_instances = InstanceData(
            bboxes=torch.rand(4, 4, device="cuda"), labels=torch.zeros(4, dtype=torch.long, device="cuda")
        )
        result = AssignResult(
            4,
            torch.zeros(len(own), dtype=torch.long, device="cuda"),
            torch.zeros(len(own), device="cuda"),
            torch.zeros(len(own), dtype=torch.long, device="cuda"),
        )
        result.assign_metrics = torch.zeros(len(own), device="cuda")
        arguments = dict(pred_instances=own, gt_instances=gt_instances, alpha=1, beta=6)
        assigner = getattr(model.bbox_head, SITES[family][0])
        row.update_qualities(AssignerCall("assigner", 0, assigner, arguments), result)
        assert result.max_overlaps.device.type == "cuda"
        assert found.bboxes.device.type == found.scores.device.type == "cuda"


def test_rtmdet_teaches_a_yolox_student_on_the_same_grid(tmp_path):
    """The student's assigner, asked with the teacher's boxes and the probabilities of its logits."""
    student, teacher = small("yolox"), small("rtmdet", base=16, exp_on_reg=True)
    student.data_preprocessor = copy.deepcopy(teacher.data_preprocessor)
    model = distil(student, teacher, tmp_path)
    batch = make_batch(**BATCH)
    taught = decisions(model, batch)
    asked = decisions(model.teacher.model, batch)
    asked = [result.asked for result in asked if len(result.asked.gt_instances)]
    assert len(taught) == len(asked) == 2
    for result, theirs in zip(taught, asked, strict=True):
        predictions = result.asked.pred_instances.clone()
        # RTMDet leaves out the priors beside an image, YOLOX does not.
        if len(theirs.pred_instances) < len(predictions):
            continue
        predictions.bboxes = theirs.pred_instances.bboxes
        predictions.scores = theirs.pred_instances.scores.sigmoid()
        wanted = model.bbox_head.assigner.assign(predictions, result.asked.gt_instances)
        assert torch.equal(result.gt_inds, wanted.gt_inds)
        assert (result.gt_inds > 0).any()
    loss_of(model, batch)["loss_obj"].backward()


def test_yolox_teaches_an_rtmdet_student_by_logits_of_its_scores():
    scores = torch.tensor([[[0.25, 0.0, 1.0]]])
    found = (
        DensePredictions(scores, torch.zeros(1, 1, 4), ()).convert_scores("probabilities", "logits").scores
    )
    torch.testing.assert_close(found[0, 0, 0], torch.tensor(0.25 / 0.75).log())
    assert found.isfinite().all()
    back = DensePredictions(found, torch.zeros(1, 1, 4), ()).convert_scores("logits", "probabilities").scores
    torch.testing.assert_close(back, scores, atol=2e-6, rtol=0)


@pytest.mark.parametrize(
    ("student", "teacher", "works"),
    [
        ("yolox", "rtmdet", True),
        ("rtmdet", "yolox", True),
        ("tood", "ddod", True),
        ("ddod", "tood", True),
        ("tood", "rtmdet", False),
        ("yolox", "ddod", False),
    ],
)
def test_families_combine_where_their_priors_are_the_same(student, teacher, works):
    models = build(small(student)), build(small(teacher))
    if works:
        find_seam(*models)
        return
    with pytest.raises(UnsupportedError, match=r"student's strides \[8.*\] are not the teacher's \[8"):
        find_seam(*models)


def test_other_places_of_the_priors_are_named():
    teacher = build(small("rtmdet", anchor_generator=dict(offset=0.5)))
    with pytest.raises(UnsupportedError, match=r"level 0 \(.*: \[0.0, 0.0\] and \[4.0, 4.0\] px\); set"):
        find_seam(build(small("rtmdet")), teacher)


def test_other_anchors_and_classes_are_named():
    with pytest.raises(UnsupportedError, match="different anchors on level 0") as caught:
        find_seam(build(small("ddod")), build(small("ddod", anchor_generator=dict(octave_base_scale=4))))
    assert "[-32.0, -32.0, 32.0, 32.0] and [-16.0, -16.0, 16.0, 16.0] px" in str(caught.value)
    with pytest.raises(UnsupportedError, match=r"level 0 \(1 and 3 a cell\); set the same anchor_generator"):
        find_seam(build(small("ddod")), build(small("ddod", anchor_generator=dict(ratios=[0.5, 1.0, 2.0]))))
    other = small("tood")
    other.bbox_head.num_classes = 5
    with pytest.raises(UnsupportedError, match="student has 3 classes and the teacher 5"):
        find_seam(build(small("tood")), build(other))


@pytest.mark.parametrize("family", FAMILIES)
def test_feature_maps_of_other_sizes_are_found_at_the_first_batch_and_both_heads_named(family, tmp_path):
    teacher = small(family)
    if "start_level" in teacher.neck:
        teacher.neck.start_level = 0  # finer maps than the strides say
        teacher.neck.num_outs = 5
    else:
        teacher.backbone.out_indices = (1, 2, 3)
        teacher.neck.in_channels = [channel // 2 for channel in teacher.neck.in_channels]
    model = distil(small(family), teacher, tmp_path)
    name = type(model.bbox_head).__name__
    with pytest.raises(UnsupportedError, match=rf"student's {name} .* 16x20, .* teacher's {name} of 32x40, "):
        loss_of(model, make_batch(**BATCH))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("branch", "value"), [("cls", torch.nan), ("reg", torch.inf)])
def test_teacher_whose_predictions_are_not_finite_stops_with_the_images_name(family, branch, value, tmp_path):
    """To an assigner a NaN is no candidate: without a check TOOD and DDOD would have no positives, and no fault."""
    model = distil(small(family), small(family), tmp_path)
    batch = make_batch(**BATCH)

    def spoil(head, args, outputs):
        outputs[0 if branch == "cls" else 1][1].data[1, 0, 0, 0] = value

    handle = model.teacher.model.bbox_head.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"image image_1\.jpg are NaN or infinite"):
        loss_of(model, batch)
    handle.remove()
    assert all(value.isfinite() for value in loss_of(model, batch).values())


def test_assigner_that_looks_at_anchors_alone_is_refused_though_its_head_could_do_better():
    static = small("ddod")
    static.train_cfg.reg_assigner = dict(type="ATSSAssigner", topk=9)
    with pytest.raises(UnsupportedError, match=r"DDODHead.reg_assigner is a ATSSAssigner .* anchors alone"):
        find_seam(build(static), build(small("ddod")))


def test_head_without_train_cfg_is_refused():
    student = small("rtmdet")
    student.train_cfg = None
    with pytest.raises(UnsupportedError, match="give its config a `train_cfg`"):
        find_seam(build(student), build(small("rtmdet")))


@pytest.mark.parametrize(
    "config", ["mmdet::atss/atss_r50_fpn_1x_coco.py", "mmdet::gfl/gfl_r50_fpn_1x_coco.py"]
)
def test_teacher_that_decides_from_anchors_alone_is_refused(config):
    with pytest.raises(UnsupportedError, match="works with PAAHead, BatchedPAAHead, TOODHead, RTMDetHead"):
        find_seam(build(small("tood")), build(small_detector(config)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_probabilities_near_one_become_finite_logits_in_any_precision(dtype):
    scores = torch.tensor([[[0.0, 0.5, 0.9999, 1.0]]], dtype=dtype)
    logits = (
        DensePredictions(scores, torch.zeros(1, 1, 4), ((1, 1),))
        .convert_scores("probabilities", "logits")
        .scores
    )
    assert logits.isfinite().all()
    assert logits[0, 0, 3] >= logits[0, 0, 2] > logits[0, 0, 1] == 0
