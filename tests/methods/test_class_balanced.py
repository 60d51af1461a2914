"""Class-balanced distillation: its loss by the definition, what it trains, foreground only, several teachers."""

import copy
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.errors import ConfigError, UnsupportedError
from lad.exchange.labels import DenseLabels
from lad.losses import cosine_distance
from lad.methods.specialists.tower_features import DenseFeatures

import pytest
import torch
import torch.nn.functional as F
from dense_detectors import dense, outputs_of
from detr_detectors import small_detr
from helpers import build, fake_cuda, make_batch
from seam_detectors import set_epoch
from specialists import KNOWN, cascade, distil, faster, one_stage
from two_stage_detectors import seeded_loss, total

CBD = dict(type="ClassBalancedDistillation")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of the teachers' checkpoints, which the tests share."""
    return tmp_path_factory.mktemp("teachers")


def batch(objects=(3, 2)):
    return make_batch(objects, size=(64, 96))


def balanced(folder, make=one_stage, known=KNOWN, **settings):
    return distil(folder, make, known, **dict(CBD, **settings))


def cosine(first, second):
    return ((first * second).sum() / (first.norm() * second.norm())).item()


def test_hand_arithmetic_of_two_teachers():
    """(1, 2, 2) and [(2), (1, 2)] = (2, 1, 2): 8 of 9. Twice as long it is the same, opposite 2, orthogonal 1."""
    student = torch.tensor([[1.0, 2.0, 2.0], [2.0, 4.0, 4.0], [-2.0, -1.0, -2.0], [0.0, 2.0, -1.0]])
    teacher = torch.cat([torch.full((4, 1), 2.0), torch.tensor([[1.0, 2.0]]).expand(4, 2)], dim=1)
    expected = torch.tensor([1 / 9, 1 / 9, 2.0, 1.0])
    torch.testing.assert_close(cosine_distance(student, teacher), expected)


def test_vector_of_zeros_has_a_bounded_gradient():
    student = torch.zeros(1, 3, requires_grad=True)
    cosine_distance(student, torch.ones(1, 3)).sum().backward()
    assert student.grad.norm() == pytest.approx(1e4)
    with pytest.raises(ValueError, match=r"shape \(1, 3\) \(student\) and \(1, 2\) \(teacher\)"):
        cosine_distance(student, torch.zeros(1, 2))


# -- The loss by the definition -----------------------------------------------------------------------------------


def last_of_tower(model, inputs, level):
    """(N, C, H, W) of a RetinaNet's class tower."""
    features = model.extract_feat(inputs)[level]
    for conv in model.bbox_head.cls_convs:
        features = conv(features)
    return features


def test_dense_loss_is_the_mean_over_positive_priors(folder):
    model = balanced(folder, alpha=0.25, beta=8.0)
    inputs, samples = batch()
    losses = model.loss(inputs, copy.deepcopy(samples))
    head, metas = model.student.bbox_head, [sample.metainfo for sample in samples]
    sizes = [level.shape[-2:] for level in outputs_of(model.student, inputs)[0]]
    anchors, valid = head.get_anchors(sizes, metas, device="cpu")
    labels, *_ = head.get_targets(anchors, valid, [s.gt_instances for s in samples], metas)
    [connector] = model.methods[0].connectors
    assert connector.linear.weight.shape == (64, 32)
    distances, cells = [], set()
    for level, (own, (_, width)) in enumerate(zip(labels, sizes, strict=True)):
        networks = [model.student, *(teacher.model for teacher in model.teachers.values())]
        student, *taught = (last_of_tower(network, inputs, level) for network in networks)
        for image, prior in (own < 3).nonzero().tolist():
            y, x = divmod(prior // 9, width)
            projected = connector(student[image, :, y, x])
            target = torch.cat([features[image, :, y, x] for features in taught])
            distances.append(1 - cosine(projected, target))
            cells.add((level, image, y, x))
    assert len(distances) > len(cells) > 5  # some cells have several positive priors
    expected = 0.25 * 8 * sum(distances) / len(distances)
    assert losses["loss_cbd"].item() == pytest.approx(expected, rel=1e-4)


def shared_features(model, inputs, rois):
    """(n, C) of a Faster R-CNN's shared layers, as its classifier sees them."""
    roi_head = model.roi_head
    features = model.extract_feat(inputs)[: roi_head.bbox_roi_extractor.num_inputs]
    flat = roi_head.bbox_roi_extractor(features, rois).flatten(1)
    for layer in roi_head.bbox_head.shared_fcs:
        flat = F.relu(layer(flat))
    return flat


def test_roi_loss_is_the_mean_over_foreground_proposals(folder):
    model = balanced(folder, faster)
    [method] = model.methods
    seen = []
    own = method.source.features
    method.source.features = lambda step, observed: seen.extend(observed[0]) or own(step, observed)
    inputs, samples = batch()
    losses = seeded_loss(model, inputs, samples)
    [outputs] = seen
    networks = [model.student, *(teacher.model for teacher in model.teachers.values())]
    student, *taught = (shared_features(network, inputs, outputs.rois) for network in networks)
    target = torch.cat(taught, dim=1)
    foreground = (outputs.targets.labels < 3).nonzero().flatten().tolist()
    assert 5 <= len(foreground) < 64
    distances = [1 - cosine(method.connectors[0](student[row]), target[row]) for row in foreground]
    expected = 40 * sum(distances) / len(distances)  # alpha 0.4, beta 100
    assert losses["loss_cbd"].item() == pytest.approx(expected, rel=1e-4)


def test_stages_of_a_cascade_have_projections_and_weights_of_their_own(folder):
    model = balanced(folder, cascade)
    assert len(model.methods[0].connectors) == 3
    losses = seeded_loss(model, *batch())
    assert all(losses[f"s{stage}.loss_cbd"] > 0 for stage in range(3))
    model.student.roi_head.stage_loss_weights = [1, 0.25, 0]
    weighed = seeded_loss(model, *batch())
    for stage, factor in enumerate([1, 0.5, 0]):
        name = f"s{stage}.loss_cbd"
        torch.testing.assert_close(weighed[name], losses[name] * factor)


# -- What it trains -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [one_stage, faster, cascade])
def test_alpha_scales_the_classification_of_the_head_alone(make, folder):
    inputs, samples = batch()
    own = seeded_loss(balanced(folder, make, alpha=0.4), inputs, samples)
    plain = seeded_loss(balanced(folder, make).student, inputs, samples)
    scaled = {name for name in plain if name.endswith("loss_cls")}
    assert len(scaled) == (3 if make is cascade else 1)
    for name, value in plain.items():
        torch.testing.assert_close(own[name], value * (0.6 if name in scaled else 1), msg=name)


@pytest.mark.parametrize("make", [one_stage, faster])
def test_alpha_of_zero_is_plain_training(make, folder):
    model = balanced(folder, make, alpha=0.0)
    plain = balanced(folder, make).student
    losses, alone = seeded_loss(model, *batch()), seeded_loss(plain, *batch())
    for name, value in alone.items():
        assert torch.equal(losses[name], value)
    total(losses).backward()
    total(alone).backward()
    for (name, found), expected in zip(model.student.named_parameters(), plain.parameters(), strict=True):
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, msg=name)


@pytest.mark.parametrize(
    ("make", "reached", "spared"),
    [
        (one_stage, ("backbone.layer2", "bbox_head.cls_convs"), ("bbox_head.retina", "bbox_head.reg_convs")),
        (
            faster,
            ("backbone.layer2", "roi_head.bbox_head.shared_fcs"),
            ("roi_head.bbox_head.fc_", "rpn_head"),
        ),
    ],
)
def test_gradient_reaches_features_and_projection_and_neither_classifier_nor_teachers(
    make, reached, spared, folder
):
    model = balanced(folder, make)
    seeded_loss(model, *batch())["loss_cbd"].backward()
    moved = {name for name, p in model.student.named_parameters() if p.grad is not None and p.grad.any()}
    assert all(any(name.startswith(part) for name in moved) for part in reached)
    assert not [name for name in moved if name.startswith(spared)]
    assert all(p.grad.any() for p in model.methods[0].connectors.parameters())
    assert all(p.grad is None for teacher in model.teachers.values() for p in teacher.model.parameters())


@pytest.mark.parametrize("make", [one_stage, faster])
def test_steps_along_the_gradient_bring_the_features_nearer(make, folder):
    model = balanced(folder, make)
    optimizer = torch.optim.SGD(model.methods[0].connectors.parameters(), lr=0.05)
    values = []
    for _ in range(8):
        optimizer.zero_grad()
        loss = seeded_loss(model, *batch())["loss_cbd"]
        loss.backward()
        optimizer.step()
        values.append(loss.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize("make", [one_stage, faster])
def test_order_of_the_teachers_is_that_of_the_projections_rows(make, folder):
    first, turned = (balanced(folder, make, taught_by=list(names)) for names in ("ab", "ba"))
    rows = torch.cat([torch.arange(32, 64), torch.arange(32)])
    own, other = (model.methods[0].connectors[0].linear for model in (first, turned))
    with torch.no_grad():
        other.weight.copy_(own.weight[rows])
        other.bias.copy_(own.bias[rows])
    expected = seeded_loss(first, *batch())["loss_cbd"]
    torch.testing.assert_close(seeded_loss(turned, *batch())["loss_cbd"], expected)
    with torch.no_grad():
        other.weight.copy_(own.weight)
        other.bias.copy_(own.bias)
    assert (seeded_loss(turned, *batch())["loss_cbd"] - expected).abs() > 1e-3


@pytest.mark.parametrize("make", [one_stage, faster, cascade])
def test_images_without_objects_have_a_loss_of_zero_and_gradients(make, folder):
    model = balanced(folder, make)
    losses = seeded_loss(model, *batch((0, 0)))
    names = [name for name in losses if name.endswith("loss_cbd")]
    assert [losses[name].item() for name in names] == [0.0] * (3 if make is cascade else 1)
    total(losses).backward()
    for p in [*model.student.parameters(), *model.methods[0].parameters()]:
        assert not p.requires_grad or p.grad is None or p.grad.isfinite().all()
    assert all(p.grad is not None and not p.grad.any() for p in model.methods[0].parameters())


def test_without_any_proposal_every_weight_has_a_gradient_for_which_other_processes_wait(folder):
    def make(count):
        config = cascade(count)
        config.train_cfg.rpn_proposal.min_bbox_size = 10_000  # boxes of no proposal are so large
        return config

    model = balanced(folder, make)
    losses = seeded_loss(model, *batch((0, 0)))
    assert [losses[f"s{stage}.loss_cbd"].item() for stage in range(3)] == [0, 0, 0]
    total(losses).backward()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]


def test_teachers_of_other_widths_are_put_together(folder):
    def make(count):
        config = faster(count)
        config.roi_head.bbox_head.fc_out_channels = 32 if count == 3 else 48
        return config

    model = balanced(folder, make, known=dict(wide=("white", "red"), same=("red", "white", "platelet")))
    assert model.methods[0].connectors[0].linear.weight.shape == (48 + 32, 32)
    assert seeded_loss(model, *batch())["loss_cbd"] > 0


def test_half_precision_features_are_compared_in_full_precision(folder):
    for make in (one_stage, faster):
        model = balanced(folder, make)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            losses = seeded_loss(model, *batch())
        assert losses["loss_cbd"].dtype == torch.float32
        total(losses).backward()
        assert all(p.grad.isfinite().all() for p in model.methods[0].parameters())


def test_dense_features_on_cuda_tensors_wait_for_nothing():
    head = build(one_stage()).bbox_head
    source = DenseFeatures.__new__(DenseFeatures)
    source._inputs = ("bbox_head.retina_cls:input",)
    source._teacher_inputs = dict(a=source._inputs)
    with fake_cuda():
        maps = [torch.randn(2, 8, size, size, device="cuda") for size in (4, 2)]
        scores = [torch.randn(2, 27, size, size, device="cuda") for size in (4, 2)]

        class Outputs(dict):
            def calls(self, name):
                return [(level,) for level in maps]

        step = SimpleNamespace(
            student=SimpleNamespace(bbox_head=head),
            outputs=Outputs(bbox_head=[scores]),
            teachers=dict(a=SimpleNamespace(target=lambda name: maps)),
        )
        labels = torch.zeros(2, 180, dtype=torch.long, device="cuda")
        observed = SimpleNamespace(labels=lambda *_: DenseLabels(labels, labels == 0, labels == 0, 1.0))
        [features] = source.features(step, observed)
        assert features.student.shape == features.teachers.shape == (40, 8)
        assert features.weight.shape == (40,)
        assert features.weight.device.type == "cuda"


# -- Deployment and reports ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", [one_stage, faster])
def test_projection_is_saved_beside_the_student_and_no_part_of_it(make, folder):
    state = balanced(folder, make).state_dict()
    own = {name for name in state if name.startswith("distillation.")}
    prefix = "distillation.ClassBalancedDistillation.connectors.0.linear"
    assert own == {f"{prefix}.weight", f"{prefix}.bias"}
    assert set(state) - own == set(build(make()).state_dict())


def test_dry_run_has_the_projection_and_the_weight(folder):
    text = describe(balanced(folder))
    rows = [line.split() for line in text.splitlines() if line.startswith("ClassBalancedDistillation")]
    assert [row[1] for row in rows] == ["a", "b"]
    assert all("LinearConnector 32 -> 64" in " ".join(row) for row in rows)
    assert any("loss_cbd" in line and " 40 " in line for line in text.splitlines())
    assert "LinearConnector 32 -> 64" in describe(balanced(folder, faster))


# -- Every head ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["tood", "rtmdet", "yolox", "ddod", "fcos", "gfl", "vfnet", "paa"])
def test_last_map_of_every_dense_head_is_found(family, folder):
    set_epoch(100)  # TOOD's own assigner
    model = balanced(folder, lambda count: dense(family, num_classes=count), known=dict(a=("white", "red")))
    width = model.student.bbox_head.feat_channels
    assert model.methods[0].source.widths == [(width, width)]
    losses = seeded_loss(model, *batch())
    assert 0 < losses["loss_cbd"] < 80


# -- Mistakes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(alpha=1.5), "alpha must be at most 1, got 1.5"),
        (dict(alpha=-0.1), "alpha must be at least 0"),
        (dict(beta=-1.0), "beta must be at least 0"),
        (dict(loss_name="cbd"), "must contain 'loss'"),
        (dict(ensemble="average"), "leave out ensemble"),
    ],
)
def test_wrong_settings_are_refused_in_one_line(settings, says, folder):
    with pytest.raises(ConfigError, match=says) as refused:
        balanced(folder, **settings)
    assert "\n" not in str(refused.value)


OTHER_STRIDES = dict(
    anchor_generator=dict(strides=[4, 8, 16, 32, 64], octave_base_scale=4, scales_per_octave=3)
)


@pytest.mark.parametrize(
    ("student", "teacher", "says"),
    [
        (one_stage(), faster(2), r"does not fit teacher a FasterRCNN \(no bbox_head\)"),
        (faster(), one_stage(2), r"\(teacher a\) does not fit teacher RetinaNet \(no roi_head\)"),
        (
            small_detr("dino"),
            one_stage(2),
            r"does not fit student DINO \(DINOHead\); it works with the heads",
        ),
    ],
)
def test_detectors_whose_features_do_not_correspond_are_refused(student, teacher, says, tmp_path):
    with pytest.raises(UnsupportedError, match=says) as refused:
        balanced(tmp_path, lambda count: student if count == 3 else teacher, known=dict(a=("white", "red")))
    assert "\n" not in str(refused.value)


def test_other_grids_are_refused(tmp_path):
    def make(count):
        config = one_stage(count)
        config.neck.start_level = 1 if count == 3 else 0
        return config

    with pytest.raises(UnsupportedError, match=r"maps of other sizes.*give both the same strides"):
        balanced(tmp_path, make, known=dict(a=("white", "red")))
