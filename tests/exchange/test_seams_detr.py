"""DETRs whose queries are their teacher's: whose matches they learn on, and whose queries they keep."""

from __future__ import annotations

import copy
from types import SimpleNamespace

from lad.base.config import detector_config
from lad.base.replace import replaced
from lad.errors import ConfigError, UnsupportedError
from lad.exchange.seams import find_seam
from lad.exchange.seams.detr import pixel_bboxes

import pytest
import torch
from detr_detectors import DETRS as FAMILIES
from detr_detectors import small_detr as small
from helpers import build, fake_cuda, make_batch, save_checkpoint, small_paa
from mmdet.models.detectors import DINO
from mmdet.registry import MODELS
from mmengine.optim import build_optim_wrapper
from mmengine.runner import load_checkpoint, load_state_dict
from mmengine.runner import save_checkpoint as mmengine_save

#: The weights that are inherited.
QUERIES = dict(
    one_stage=["query_embedding.weight", "reference_points_fc.weight", "reference_points_fc.bias"],
    two_stage=["pos_trans_fc.weight", "pos_trans_fc.bias", "pos_trans_norm.weight", "pos_trans_norm.bias"],
    dino=["query_embedding.weight"],
)
LAYERS, QUERY_COUNT = 2, 20
BATCH = dict(objects=(3, 0, 7), size=(96, 128), shapes=[(64, 128), (96, 90), (96, 128)])


def distil(student: dict, teacher: dict, tmp_path, weights=(0, 10), inherit_queries=True) -> torch.nn.Module:
    """A student and a teacher with weights of the given seeds; no dropout, batch norm as at test time."""
    path = save_checkpoint(build(teacher, weights[1]), tmp_path / "teacher.pth")
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=copy.deepcopy(student),
            teacher=dict(copy.deepcopy(teacher), checkpoint=path),
            methods=[dict(type="LabelAssignmentDistillation", inherit_queries=inherit_queries)],
        )
    )
    model.student.load_state_dict(build(student, weights[0]).state_dict())
    if inherit_queries:
        model.methods[0].queries.inherit()
    model.eval()
    model.student.training = model.student.bbox_head.training = True
    return model


def seeded_loss(model: torch.nn.Module, batch, seed: int = 3) -> dict[str, torch.Tensor]:
    """The losses of a batch, with DINO's noise from one seed."""
    inputs, samples = batch
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return model.loss(inputs, copy.deepcopy(samples))


def decisions(model: torch.nn.Module, batch) -> list[SimpleNamespace]:
    """What a head's losses were made from, call by call: labels, weights and box targets of every query."""
    head, found = model.bbox_head, []
    targets = head._get_targets_single

    def recorded(cls_score, bbox_pred, gt_instances, img_meta):
        result = targets(cls_score, bbox_pred, gt_instances, img_meta)
        found.append(SimpleNamespace(labels=result[0], boxes=result[2], positive=result[3][:, 0] > 0))
        return result

    with replaced(head, "_get_targets_single", recorded):
        seeded_loss(model, batch)
    return found


def same(a: SimpleNamespace, b: SimpleNamespace) -> bool:
    return all(torch.equal(value, vars(b)[name]) for name, value in vars(a).items())


@pytest.mark.parametrize("family", FAMILIES)
def test_teacher_with_the_students_weights_changes_no_loss(family, tmp_path):
    config = small(family)
    model = distil(config, config, tmp_path, weights=(0, 0))
    # Images without objects, of several sizes in one batch, and a batch without any object.
    for batch in (make_batch(**BATCH), make_batch((0, 0))):
        plain, taught = seeded_loss(model.student, batch), seeded_loss(model, batch)
        assert plain.keys() == taught.keys()
        for name, value in plain.items():
            torch.testing.assert_close(taught[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_matches_of_each_decoder_layer_are_exactly_those_of_the_teacher_alone(family, tmp_path):
    """And those of the encoder's proposals are the student's own."""
    model = distil(small(family), small(family, base=16), tmp_path)
    for parameter in model.teacher.model.decoder.layers[1].parameters():
        parameter.mul_(5)  # so that the layers decide differently
    batch = make_batch(**BATCH)
    taught = decisions(model, batch)
    teachers = decisions(model.teacher.model, batch)
    own = decisions(model.student, batch)
    decoder = LAYERS * len(batch[1])
    assert len(taught) == len(own) == len(teachers) == decoder + (family != "one_stage") * len(batch[1])
    assert all(same(a, b) for a, b in zip(taught[:decoder], teachers[:decoder], strict=True))
    assert all(same(a, b) for a, b in zip(taught[decoder:], own[decoder:], strict=True))
    assert sum(int(result.positive.sum()) for result in taught[:decoder]) == LAYERS * (3 + 0 + 7)
    assert not all(same(a, b) for a, b in zip(taught[:decoder], own[:decoder], strict=True)), "the control"
    assert not all(same(a, b) for a, b in zip(taught[:3], taught[3:decoder], strict=True)), "layers differ"


@pytest.mark.parametrize("family", FAMILIES)
def test_students_decoder_starts_where_the_teachers_starts(family, tmp_path):
    model = distil(small(family), small(family, base=16), tmp_path)
    batch = make_batch(**BATCH)

    def start_of(detector, run) -> tuple[torch.Tensor, torch.Tensor]:
        found = []
        hook = detector.decoder.register_forward_pre_hook(
            lambda module, args, kwargs: found.append((kwargs["query"], kwargs["reference_points"])),
            with_kwargs=True,
        )
        seeded_loss(run, batch)
        hook.remove()
        return tuple(value[:, -QUERY_COUNT:] for value in found[0])

    own = start_of(model.student, model.student)
    teachers = start_of(model.teacher.model, model)
    taught = start_of(model.student, model)
    for value, wanted in zip(taught, teachers, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-5)
    if family != "one_stage":
        assert (taught[1] - own[1]).abs().max() > 1e-3, "the control: its own proposals are elsewhere"


def test_denoising_is_that_of_plain_training(tmp_path):
    """The same noisy queries and the same losses; denoising queries see the others, so those start alike in both."""
    model = distil(small("dino"), small("dino", base=16), tmp_path)
    batch = make_batch(**BATCH)
    noisy = []
    generate = model.student.dn_query_generator

    class Recording(torch.nn.Module):
        def forward(self, samples):
            noisy.append(generate(samples))
            return noisy[-1]

    references = []
    starting_from = model.methods[0].queries.starting_from

    def listening(boxes):
        references.append(boxes)
        return starting_from(boxes)

    model.student.dn_query_generator = Recording()
    with replaced(model.methods[0].queries, "starting_from", listening):
        taught = seeded_loss(model, batch)
    with starting_from(references[0]):
        plain = seeded_loss(model.student, batch)
    for value, wanted in zip(noisy[0][:3], noisy[1][:3], strict=True):
        assert torch.equal(value, wanted)
    names = [name for name in plain if "dn_loss" in name]
    assert len(names) == 3 * LAYERS
    assert all(torch.equal(taught[name], plain[name]) for name in names)
    assert all(torch.equal(taught[name], plain[name]) for name in plain if name.startswith("enc_"))
    assert not torch.equal(taught["loss_bbox"], plain["loss_bbox"]), "the control"


@pytest.mark.parametrize("family", FAMILIES)
def test_queries_are_the_teachers_after_init_weights_and_all_else_is_not(family, tmp_path):
    model = distil(small(family), small(family, base=16), tmp_path)
    torch.manual_seed(5)
    model.init_weights()
    plain = build(small(family))
    torch.manual_seed(5)
    plain.init_weights()
    state, teacher = model.state_dict(), model.teacher.model.state_dict()
    for name, value in plain.state_dict().items():
        wanted = teacher[name] if name in QUERIES[family] else value
        assert torch.equal(state[name], wanted), name
    assert not torch.equal(plain.state_dict()[QUERIES[family][0]], teacher[QUERIES[family][0]])


@pytest.mark.parametrize("loader", ["mmengine", "torch"])
def test_trained_queries_survive_resuming_and_those_of_another_checkpoint_are_replaced(loader, tmp_path):
    config = small("one_stage")
    model = distil(config, config, tmp_path)
    with torch.no_grad():
        model.query_embedding.weight += 1
    mmengine_save(dict(state_dict=model.state_dict(), meta={}), str(tmp_path / "run.pth"))
    trained = model.query_embedding.weight.clone()

    def load(into, state):
        if loader == "mmengine":
            load_state_dict(into, state)
        else:
            into.load_state_dict(state)

    resumed = distil(config, config, tmp_path)
    file = torch.load(tmp_path / "run.pth", weights_only=True)
    load(resumed, file["state_dict"])
    assert torch.equal(resumed.query_embedding.weight, trained)
    load(copy.deepcopy(resumed), file["state_dict"])  # an EMA copy has a student of its own
    # A plain detector's checkpoint, as `load_from` gives it.
    plain = build(config, seed=4)
    load(resumed, plain.state_dict())
    teachers = resumed.teacher.model.query_embedding.weight
    assert torch.equal(resumed.query_embedding.weight, teachers)
    assert torch.equal(resumed.student.level_embed, plain.level_embed)
    # The same student with another teacher.
    other = distil(config, config, tmp_path, weights=(0, 11))
    load(other, file["state_dict"])
    assert torch.equal(other.query_embedding.weight, other.teacher.model.query_embedding.weight)
    assert not torch.equal(other.query_embedding.weight, teachers)


def test_copy_of_a_detector_inherits_into_its_own_student(tmp_path):
    model = distil(small("one_stage"), small("one_stage"), tmp_path)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        model.query_embedding.weight.zero_()
        twin.query_embedding.weight.zero_()
    twin.methods[0].queries.inherit()
    assert torch.equal(twin.query_embedding.weight, model.teacher.model.query_embedding.weight)
    assert (model.query_embedding.weight == 0).all()
    assert sum(1 for _ in model.modules()) == sum(1 for _ in twin.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpoint_is_plain_mmdetections(family, tmp_path):
    model = distil(small(family), small(family), tmp_path)
    plain = MODELS.build(small(family))
    assert list(model.state_dict()) == list(plain.state_dict())
    mmengine_save(dict(state_dict=model.state_dict(), meta={}), str(tmp_path / "run.pth"))
    load_checkpoint(plain, str(tmp_path / "run.pth"), strict=True)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in plain.state_dict().items())
    names = [name for name, _ in model.named_parameters()]
    assert names == [name for name, _ in plain.named_parameters()], "queries are not listed twice"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("inherit", [True, "frozen"])
def test_frozen_queries_stay_and_others_learn(family, inherit, tmp_path):
    model = distil(small(family), small(family, base=16), tmp_path, inherit_queries=inherit)
    optimizer = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="AdamW", lr=0.1, weight_decay=0.5),
            paramwise_cfg=dict(custom_keys=dict(backbone=dict(lr_mult=0.1))),
        ),
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    total, _ = model.parse_losses(seeded_loss(model, make_batch(**BATCH)))
    optimizer.update_params(total)
    parameters = dict(model.named_parameters())
    for name in QUERIES[family]:
        learns = inherit is True
        assert parameters[name].requires_grad is learns
        assert (parameters[name].grad is not None) is False or learns
        assert torch.equal(parameters[name], before[name]) is not learns
    assert not torch.equal(parameters["level_embed"], before["level_embed"])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_trained_parameter_gets_a_gradient(family, tmp_path):
    """As DDP asks, unless told otherwise."""
    model = distil(small(family), small(family, base=16), tmp_path)
    total, _ = model.parse_losses(seeded_loss(model, make_batch(**BATCH)))
    total.backward()
    missing = [name for name, value in model.named_parameters() if value.requires_grad and value.grad is None]
    assert not missing


@pytest.mark.parametrize("family", FAMILIES)
def test_detectors_are_as_before_after_a_step_and_after_an_exception(family, tmp_path):
    model = distil(small(family), small(family), tmp_path)
    batch = make_batch(**BATCH)
    head = model.bbox_head
    places = [model.student, head, model.teacher.model, model.teacher.model.bbox_head]
    before = [dict(vars(place)) for place in places]
    seeded_loss(model, batch)
    assert [dict(vars(place)) for place in places] == before

    def broken(*args, **kwargs):
        raise ZeroDivisionError

    for owner, name in (
        (head.assigner, "assign"),
        (head, "loss_by_feat_single"),
        (model.teacher.model, "pre_decoder"),
    ):
        with pytest.raises(ZeroDivisionError), replaced(owner, name, broken):
            seeded_loss(model, batch)
        assert [dict(vars(place)) for place in places] == before


def test_teacher_draws_no_random_numbers_and_runs_once(tmp_path):
    model = distil(small("dino"), small("dino", base=16), tmp_path)
    calls = []
    for name in ("backbone", "encoder", "decoder"):
        getattr(model.teacher.model, name).register_forward_hook(
            lambda *args, name=name: calls.append((name, torch.is_grad_enabled()))
        )
    model.teacher.model.dn_query_generator = None
    seeded_loss(model, make_batch(**BATCH))
    assert calls == [("backbone", False), ("encoder", False), ("decoder", False)]


def test_head_that_asks_once_more_is_refused(tmp_path):
    model = distil(small("one_stage"), small("one_stage"), tmp_path)
    single = model.bbox_head.loss_by_feat_single

    def twice(*args, **kwargs):
        single(*args, **kwargs)
        return single(*args, **kwargs)

    with (
        replaced(model.bbox_head, "loss_by_feat_single", twice),
        pytest.raises(UnsupportedError, match=r"DeformableDETRHead\.assigner was called"),
    ):
        seeded_loss(model, make_batch(**BATCH))


def test_head_with_other_queries_than_the_teachers_is_refused(tmp_path):
    model = distil(small("one_stage"), small("one_stage"), tmp_path)
    single = model.bbox_head.loss_by_feat_single

    def fewer(cls_scores, bbox_preds, **kwargs):
        return single(cls_scores[:, 1:], bbox_preds[:, 1:], **kwargs)

    with (
        replaced(model.bbox_head, "loss_by_feat_single", fewer),
        pytest.raises(UnsupportedError, match="matches 19 queries in decoder layer 0 and the teacher has 20"),
    ):
        seeded_loss(model, make_batch(**BATCH))


def test_boxes_are_scaled_to_each_image():
    """Centre (0.5, 0.5), size (0.5, 1): of 100 x 40 pixels x 25 to 75, y 0 to 40; of 10 x 20, 2.5 to 7.5, 0 to 20."""
    boxes = torch.tensor([0.5, 0.5, 0.5, 1.0]).expand(1, 2, 1, 4)
    found = pixel_bboxes(boxes, [(40, 100), (20, 10)])
    wanted = torch.tensor([[[[25.0, 0.0, 75.0, 40.0]], [[2.5, 0.0, 7.5, 20.0]]]])
    torch.testing.assert_close(found, wanted)
    with fake_cuda():
        assert (
            pixel_bboxes(torch.rand(2, 2, 5, 4, device="cuda"), [(40, 100), (20, 10)]).device.type == "cuda"
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_student_with_queries_of_its_own_is_refused_with_the_reason(family):
    with pytest.raises(
        UnsupportedError, match=r"queries of two networks do not correspond.*inherit_queries=True"
    ):
        find_seam(build(small(family)), build(small(family)))


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (small("dino"), small("two_stage"), "a DINO student .* of a two-stage DeformableDETR teacher"),
        (
            small("one_stage"),
            small("two_stage"),
            "a DeformableDETR student .* two-stage DeformableDETR teacher",
        ),
        (small_paa(), small("dino"), "a PAA student cannot take over the queries of a DINO teacher"),
        (small("dino"), small("dino", queries=30), "student has 20 queries and the teacher 30"),
        (small("one_stage"), small("one_stage", layers=3), "decoder has 2 layers and the teacher's 3"),
    ],
    ids=["dino-two_stage", "one_stage-two_stage", "paa-dino", "queries", "layers"],
)
def test_queries_that_cannot_be_inherited_are_refused(student, teacher, message, tmp_path):
    with pytest.raises(UnsupportedError, match=message):
        distil(student, teacher, tmp_path)


def test_other_dimensions_and_classes_are_named(tmp_path):
    thin = small("one_stage")
    wide = detector_config(
        dict(
            thin,
            neck=dict(thin.neck, out_channels=64),
            encoder=dict(
                num_layers=1,
                layer_cfg=dict(self_attn_cfg=dict(embed_dims=64), ffn_cfg=dict(embed_dims=64)),
            ),
            decoder=dict(
                thin.decoder,
                layer_cfg=dict(
                    self_attn_cfg=dict(embed_dims=64, num_heads=8, batch_first=True),
                    cross_attn_cfg=dict(embed_dims=64, batch_first=True),
                    ffn_cfg=dict(embed_dims=64, feedforward_channels=32),
                ),
            ),
            positional_encoding=dict(num_feats=32, normalize=True),
            bbox_head=dict(thin.bbox_head, embed_dims=64),
        ),
        "teacher",
    )
    with pytest.raises(
        UnsupportedError, match=r"query_embedding.weight is \(20, 64\) and the teacher's \(20, 128\)"
    ):
        distil(thin, wide, tmp_path)
    classes = small("one_stage")
    classes.bbox_head.num_classes = 5
    with pytest.raises(UnsupportedError, match="student has 3 classes and the teacher 5"):
        distil(thin, classes, tmp_path)


def test_detector_that_makes_its_queries_in_another_way_is_refused(tmp_path):
    @MODELS.register_module(force=True)
    class OtherQueriesDINO(DINO):
        def pre_decoder(self, *args, **kwargs):
            return super().pre_decoder(*args, **kwargs)

    other = small("dino", type="OtherQueriesDINO")
    with pytest.raises(UnsupportedError, match="a OtherQueriesDINO student cannot take over"):
        distil(other, small("dino"), tmp_path)


def test_misspelt_option_is_refused():
    with pytest.raises(ConfigError, match="inherit_queries must be True, 'frozen' or False, got 'forzen'"):
        MODELS.build(dict(type="LabelAssignmentDistillation", inherit_queries="forzen"))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("output", [0, 1])
def test_teacher_whose_predictions_are_not_finite_stops_with_the_images_name(family, output, tmp_path):
    model = distil(small(family), small(family), tmp_path)

    def spoil(head, args, outputs):
        outputs[output][-1, 1, 0, 0] = torch.nan

    model.teacher.model.bbox_head.register_forward_hook(spoil)
    with pytest.raises(FloatingPointError, match=r"image image_1\.jpg are NaN or infinite"):
        seeded_loss(model, make_batch(**BATCH))
