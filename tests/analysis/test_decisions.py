"""What is drawn is what training decides."""

import copy

from lad.analysis.pictures.assignments import assignment_pictures, check_drawable
from lad.base.replace import replaced
from lad.errors import UnsupportedError
from lad.heads.batched_paa_head import BatchedPAAHead

import numpy as np
import pytest
import torch
from helpers import build, co_learning, make_batch, small_detector, small_paa
from mmdet.registry import MODELS
from seam_detectors import FAMILIES, decisions, distil, set_epoch, small


@pytest.fixture(autouse=True)
def _after_toods_initial_epoch():
    set_epoch(1)


def make_data(objects=(0, 3, 5)):
    """Images as a data loader gives them; the first has no object."""
    _, samples = make_batch(objects)
    generator = torch.Generator().manual_seed(5)
    inputs = [torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8) for _ in objects]
    return dict(inputs=inputs, data_samples=samples)


def batch_of(model, data):
    batch = model.data_preprocessor(copy.deepcopy(data), training=False)
    return batch["inputs"], batch["data_samples"]


def co_learn(networks, per="gt_level"):
    switch = dict(type="FisherSwitch" if per == "gt" else "StdMeanSwitch", per=per)
    model = MODELS.build(co_learning(networks, switch))
    for seed, (name, config) in enumerate(networks.items()):
        model.trained_networks[name].load_state_dict(build(config, seed).state_dict())
    model.eval()
    for network in model.trained_networks.values():
        network.training = network.bbox_head.training = True
    return model


def paa_positives(head, compute):
    """Of each object in the batch the positive anchors of the last assignment that ``compute`` makes."""
    seen = []

    def reassign(losses, candidates):
        seen.append((candidates, BatchedPAAHead.reassign(head, losses, candidates)))
        return seen[-1][1]

    with replaced(head, "reassign", reassign):
        compute()
    candidates, assignment = seen[-1]
    return [
        {
            (level, *anchor)
            for level, anchor in zip(
                candidates.level[own].tolist(), candidates.anchors[own].tolist(), strict=True
            )
        }
        for slots, positive in zip(assignment.candidate, assignment.positive, strict=True)
        for own in [slots[positive]]
    ]


def drawn(pictures, panel):
    """Of each object in the batch the positives of one panel."""
    return [own.positives for picture in pictures for own in picture.panels[panel].objects]


def test_paa_panels_are_what_student_teacher_and_distillation_decide(tmp_path):
    student = small_paa(base=8)
    # The teacher's own settings decide in its own panel, the student's in the student's.
    model = distil(student, small_paa(base=16, topk=5), tmp_path)
    data = make_data()
    batch = batch_of(model, data)
    pictures = assignment_pictures(model, data)
    assert [panel.title for panel in pictures[0].panels] == ["student alone", "teacher", "student with LAD"]
    assert [len(picture.bboxes) for picture in pictures] == [0, 3, 5]
    head, teacher = model.student.bbox_head, model.teacher.model
    alone = paa_positives(head, lambda: model.student.loss(*copy.deepcopy(batch)))
    assert drawn(pictures, 0) == alone
    assert drawn(pictures, 1) == paa_positives(teacher.bbox_head, lambda: teacher.loss(*copy.deepcopy(batch)))
    lad = paa_positives(head, lambda: model.loss(*copy.deepcopy(batch)))
    assert drawn(pictures, 2) == lad
    assert lad != alone
    changes = [len(a ^ b) for a, b in zip(alone, lad, strict=True)]
    assert [*pictures[1].num_changes, *pictures[2].num_changes] == changes


def test_paa_threshold_is_where_the_better_component_is_densest():
    model = build(small_paa())
    objects = [
        own for picture in assignment_pictures(model, make_data()) for own in picture.panels[0].objects
    ]
    assert [own.mixture is None for own in objects] == [len(own.costs) < 2 for own in objects]
    objects = [own for own in objects if own.mixture is not None]
    for own in objects:
        better, worse = own.mixture.density(own.costs)
        candidates = own.costs[better > worse]
        assert own.threshold == candidates[(better + worse)[better > worse].argmax()]
        assert (own.positive == ((better > worse) & (own.costs <= own.threshold))).all()
    assert len(objects) > 4


def test_mmdets_own_paa_head_is_drawn_as_the_batched_one():
    plain, batched = build(small_paa("PAAHead")), build(small_paa())
    batched.load_state_dict(plain.state_dict())
    data = make_data()
    assert drawn(assignment_pictures(plain, data), 0) == drawn(assignment_pictures(batched, data), 0)


def sampled(model, batch):
    """Of each object the positives that went into the losses of a head with an assigner (DDOD: of the classes)."""
    calls = [call for call in decisions(model, batch) if len(call.asked.gt_instances)]
    found = []
    for call in calls[: sum(len(sample.gt_instances) > 0 for sample in batch[1])]:
        priors = call.asked.pred_instances.priors
        if model.bbox_head.prior_generator.__class__.__name__ == "MlvlPointGenerator":
            priors = torch.cat([priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2], dim=1)
        for number in range(len(call.asked.gt_instances)):
            found.append(
                {tuple(row) for row in priors[call.gt_inds == number + 1].round(decimals=2).tolist()}
            )
    return found


def boxes(positives):
    """Without the level, which a prior's size tells as well."""
    return [{tuple(np.float32(value).item() for value in row[1:]) for row in own} for own in positives]


@pytest.mark.parametrize("family", FAMILIES)
def test_assigners_panels_are_what_student_and_distillation_decide(family, tmp_path):
    model = distil(small(family), small(family, base=16), tmp_path)
    data = make_data()
    pictures = assignment_pictures(model, data, ["a", "b", "c"])
    batch = batch_of(model, data)
    lad = sampled(model, batch)
    assert boxes(drawn(pictures, 2)) == lad
    alone = sampled(model.student, batch)
    assert boxes(drawn(pictures, 0)) == alone
    assert alone != lad
    for own in pictures[2].panels[2].objects:
        assert np.isfinite(own.costs).any()
        if family == "ddod":
            assert (own.costs[own.positive] <= own.threshold + 1e-6).all()


def test_tood_is_drawn_as_it_decides_after_its_initial_epochs_and_stays_as_it_was():
    model = build(small("tood"))
    data = make_data()
    expected = drawn(assignment_pictures(model, data), 0)
    set_epoch(0)
    before = copy.copy(vars(model.bbox_head))
    assert drawn(assignment_pictures(model, data), 0) == expected
    assert vars(model.bbox_head) == before


def shares(pictures, names):
    """The share of objects that each network taught, levels of an object counted in parts."""
    objects = [
        [teacher for teacher in of_object if teacher]
        for picture in pictures
        for of_object in picture.panels[-1].taught_by
    ]
    objects = [levels for levels in objects if levels]
    return [np.mean([levels.count(name) / len(levels) for levels in objects]) for name in names]


@pytest.mark.parametrize("per", ["gt_level", "gt"])
def test_paa_networks_that_learn_together(per):
    model = co_learn(dict(a=small_paa(base=8), b=small_paa(base=16)), per)
    data = make_data()
    pictures = assignment_pictures(model, data)
    batch = batch_of(model, data)
    head = model.trained_networks["a"].bbox_head
    assert drawn(pictures, 2) == paa_positives(head, lambda: model.loss(*copy.deepcopy(batch)))
    alone = paa_positives(head, lambda: model.trained_networks["a"].loss(*copy.deepcopy(batch)))
    assert drawn(pictures, 0) == alone
    losses = model.loss(*copy.deepcopy(batch))
    expected = [float(losses["a.share"]), float(losses["b.share"])]
    assert 0 < expected[0] < 1
    assert shares(pictures, "ab") == pytest.approx(expected)


@pytest.mark.parametrize("family", ["tood", "rtmdet", "yolox"])
def test_networks_with_assigners_that_learn_together(family):
    model = co_learn(dict(a=small(family), b=small(family, base=16)))
    data = make_data((0, 4))
    pictures = assignment_pictures(model, data)
    inputs, samples = batch_of(model, data)
    losses = model.loss(inputs, copy.deepcopy(samples))
    expected = [float(losses["a.share"]), float(losses["b.share"])]
    assert shares(pictures, "ab") == pytest.approx(expected)

    class First(torch.nn.Module):
        """The first network, learning in company."""

        bbox_head = model.trained_networks["a"].bbox_head

        def loss(self, inputs, samples):
            return model.loss(inputs, samples)

    assert boxes(drawn(pictures, 2)) == sampled(First(), (inputs, samples))


def test_without_objects_nothing_is_decided():
    for model in (build(small("rtmdet")), co_learn(dict(a=small_paa(), b=small_paa()))):
        pictures = assignment_pictures(model, make_data((0, 0)))
        assert [panel.objects for picture in pictures for panel in picture.panels] == [()] * 2 * len(
            pictures[0].panels
        )


def test_detector_data_and_random_state_are_as_before(tmp_path):
    model = distil(small_paa(), small_paa(base=16), tmp_path).train()
    data = make_data()
    kept, state = copy.deepcopy(data), copy.deepcopy(model.state_dict())
    flags = [module.training for module in model.modules()]
    random = torch.get_rng_state()
    assignment_pictures(model, data)
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == flags
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(data["inputs"], kept["inputs"], strict=True))
    assert data["data_samples"][1].metainfo == kept["data_samples"][1].metainfo


def test_exit_that_learns_its_networks_labels_is_drawn_with_it_and_stays_as_it_was():
    """Its neck has batch norms, which must not learn from the images that are drawn."""
    early = dict(levels=[1], neck=dict(norm_cfg=dict(type="BN")))
    replay = dict(type="LabelAssignmentDistillation", learner="student.early", taught_by="student")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            exits=dict(student=dict(early=early)),
            methods=[dict(type="SelfDistillation"), replay],
        )
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flags = [module.training for module in model.modules()]
    picture, _ = assignment_pictures(model, make_data((3, 5)))
    assert picture.panels[0].title == "student.early alone"
    assert len(picture.panels) == 3
    teacher, learner = (drawn([picture], panel) for panel in (1, 2))
    assert learner == teacher
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == flags


def test_image_is_rgb_and_labels_are_named():
    data = make_data((2, 0))
    data["inputs"][0][:] = torch.tensor([10, 20, 30], dtype=torch.uint8)[:, None, None]  # blue, green, red
    picture, _ = assignment_pictures(build(small_paa()), data, ["cat", "dog", "cow"])
    assert picture.image[0, 0].tolist() == [30, 20, 10]
    labels = data["data_samples"][0].gt_instances.labels.tolist()
    assert picture.labels == tuple(["cat", "dog", "cow"][label] for label in labels)
    assert picture.strides == (8, 16, 32, 64, 128)


@pytest.mark.parametrize(
    "config", ["atss/atss_r50_fpn_1x_coco.py", "faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py"]
)
def test_detectors_that_decide_from_anchors_alone_are_refused(config):
    with pytest.raises(UnsupportedError, match=r"cannot be drawn.*works with PAAHead.*TOODHead.*DDODHead\.$"):
        check_drawable(build(small_detector(f"mmdet::{config}")))
