"""FeatureFusionSelfDistillation (FFSD): its terms by hand, gradients, deployment, mistakes.

The networks differ in backbone, norm and normalisation of images wherever that could hide a mix-up.
"""

import copy

from lad.base.capture import capture, levels_of
from lad.errors import ConfigError, UnsupportedError
from lad.losses import attention_transfer_loss, complementary_features, direction_distance, diversity_loss
from lad.networks.fusion import DeepToShallow, find_deep_and_shallow

import pytest
import torch
from dense_detectors import dense, differing, flat, outputs_of
from helpers import at, make_batch
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from seam_detectors import set_epoch
from two_stage_detectors import two_stage

FFSD = dict(type="FeatureFusionSelfDistillation", leader="top")
ZERO = dict(diversity_weight=0, fusion_weight=0, upsampling_weight=0)


def networks(family="retinanet"):
    """The leader is neither the first nor the deployed one where that matters."""
    return dict(a=dense(family), top=differing(dense(family)), b=differing(dense(family)))


def build(configs=None, seed=0, ffsd=None, **settings):
    """Networks with random weights whose logits differ; every norm of the method has statistics of its own."""
    config = dict(type="DistillationDetector", networks=configs or networks(), deploy="top")
    config["methods"] = [dict(FFSD, **(ffsd or {}))]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = MODELS.build(copy.deepcopy(config | settings))
        for parameter in model.parameters():
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model.train()


def losses_of(model, batch=None):
    inputs, samples = batch or make_batch((3, 0, 5))
    torch.manual_seed(0)
    return model.loss(inputs, copy.deepcopy(samples))


def terms_of(losses):
    return {name.removeprefix("loss_ffsd."): value for name, value in losses.items() if "ffsd" in name}


def maps_of(model, batch):
    """Maps of backbone and neck of each network."""
    inputs, samples = batch
    found = {}
    for name, network in model.trained_networks.items():
        with capture(network, ["backbone", "neck"]) as outputs:
            network.extract_feat(model.network_inputs(name, inputs, samples))
        found[name] = {part: levels_of(outputs.calls(part)) for part in ("backbone", "neck")}
    return found


# -- Terms ------------------------------------------------------------------------------------------------------------


def test_all_terms_are_named():
    losses = losses_of(build())
    own = {"a.b", "b.a", "fusion.students", "top.fusion", "b.diversity", "b.self", "b.upsampling"}
    assert set(terms_of(losses)) == own | {
        f"top.{term}" for term in ("attention", "reverse", "self", "upsampling")
    }
    assert {"fusion.loss_cls", "fusion.loss_bbox", "a.loss_cls", "b.loss_cls", "top.loss_cls"} <= set(losses)
    assert all(value > 0 for value in terms_of(losses).values())


def binary_kl(own, taught, temperature=2.0):
    own, taught = own.double() / temperature, taught.double() / temperature
    p, q = taught.sigmoid(), own.sigmoid()
    return temperature**2 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum(-1)


def targets_of(head, outputs, samples):
    """Labels' weights (N, P) of a RetinaNet by its own assigner, and the divisor of its class loss."""
    metas = [sample.metainfo for sample in samples]
    anchors, valid = head.get_anchors([level.shape[-2:] for level in outputs[0]], metas, device="cpu")
    _, weights, *_, divisor = head.get_targets(
        anchors, valid, [sample.gt_instances for sample in samples], metas, return_sampling_results=False
    )
    return torch.cat(weights, dim=1), divisor


def test_logit_terms_are_those_of_the_formula_with_three_students():
    configs = networks() | dict(c=dense("retinanet"))
    model = build(configs, ffsd=ZERO)
    inputs, samples = batch = make_batch((3, 0, 5))
    losses = terms_of(losses_of(model, batch))
    outputs = {
        name: outputs_of(network, model.network_inputs(name, inputs, samples))
        for name, network in model.trained_networks.items()
    }
    method = model.methods[0]
    maps = maps_of(model, batch)
    side_by_side = [
        torch.cat(level, dim=1) for level in zip(*(maps[name]["neck"] for name in "abc"), strict=True)
    ]
    outputs["fusion"] = method.fusion.bbox_head(method.fusion.fuse(side_by_side))
    logits = {name: flat(each[0], 3) for name, each in outputs.items()}
    logits["students"] = (logits["a"] + logits["b"] + logits["c"]) / 3
    heads = {name: network.bbox_head for name, network in model.trained_networks.items()}
    heads["fusion"] = method.fusion.bbox_head
    pairs = {(one, two): 0.5 for one in "abc" for two in "abc" if one != two}
    pairs |= {("fusion", "students"): 1.0, ("top", "fusion"): 1.0}
    assert set(losses) == {f"{learner}.{teacher}" for learner, teacher in pairs}
    for (learner, teacher), weight in pairs.items():
        counts, divisor = targets_of(heads[learner], outputs[learner], samples)
        expected = weight * (binary_kl(logits[learner], logits[teacher]) * counts).sum() / divisor
        torch.testing.assert_close(
            losses[f"{learner}.{teacher}"], expected.float(), rtol=1e-4, atol=1e-6, msg=f"{learner} {teacher}"
        )


def test_attention_terms_are_those_of_the_formula():
    model = build(ffsd=dict(diversity_weight=3.0, fusion_weight=5.0, upsampling_weight=7.0))
    batch = make_batch((3, 2))
    losses = terms_of(losses_of(model, batch))
    method = model.methods[0]
    maps = maps_of(model, batch)
    neck = {name: each["neck"] for name, each in maps.items()}
    side_by_side = [torch.cat(level, dim=1) for level in zip(neck["a"], neck["b"], strict=True)]
    fused = method.fusion.fuse(side_by_side)

    def mean(distance, own, taught):
        return sum(distance(*pair).mean() for pair in zip(own, taught, strict=True)) / len(own)

    expected = {
        "b.diversity": 3 * mean(diversity_loss, neck["b"], neck["a"]),
        "top.attention": 5 * mean(attention_transfer_loss, neck["top"], fused),
        "top.reverse": 5 * mean(attention_transfer_loss, method.reverse(neck["top"]), side_by_side),
    }
    for name, weight, deep in (("b", 3, complementary_features(neck["a"][2])), ("top", 5, fused[2])):
        upsampling = method.upsampling[name]
        # C4 and C3, of strides 16 and 8; C2 is larger than the neck's first map.
        stages = [maps[name]["backbone"][number] for number in (2, 1)]
        sizes = [stage.shape[-2:] for stage in stages]
        # The step has moved the statistics of the norms once, after its targets were made.
        fresh = copy.deepcopy(upsampling)
        for norm in fresh.norms:
            norm.reset_running_stats()
        targets = fresh.eval()(deep, sizes)
        made = upsampling(neck[name][2], sizes)
        expected[f"{name}.self"] = weight * sum(
            attention_transfer_loss(stage, target).mean()
            for stage, target in zip(stages, targets, strict=True)
        )
        expected[f"{name}.upsampling"] = 7 * sum(
            (distance(one, stage)).mean()
            for one, stage in zip(made, stages, strict=True)
            for distance in (direction_distance, attention_transfer_loss)
        )
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-8, msg=name)


def test_default_weights_rise_over_five_epochs():
    model = build()
    first, last = ("top.attention", "top.upsampling"), ("b.diversity", "b.self")
    batch = make_batch((3, 2))
    values = {}
    for epoch in (0, 5, 20):
        torch.manual_seed(0)
        at(model, 10 * epoch, epoch)
        values[epoch] = terms_of(losses_of(copy.deepcopy(model), batch))
    for name in (*first, *last):
        torch.testing.assert_close(values[0][name], values[5][name] * torch.tensor(-5.0).exp())
        torch.testing.assert_close(values[5][name], values[20][name])
    torch.testing.assert_close(values[0]["a.b"], values[5]["a.b"])


def test_terms_of_weight_zero_are_not_computed_nor_built():
    model = build(ffsd=ZERO)
    assert set(terms_of(losses_of(model))) == {"a.b", "b.a", "fusion.students", "top.fusion"}
    assert model.methods[0].reverse is None
    assert not model.methods[0].upsampling


@pytest.mark.parametrize("family", ["gfl", "fcos", "rtmdet", "paa", "tood"])
def test_every_kind_of_assignment_trains(family):
    set_epoch(100)  # TOOD's own assigner
    model = build({name: dense(family) for name in ("a", "top", "b")})
    total, _ = model.parse_losses(losses_of(model))
    total.backward()
    assert total.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.methods[0].parameters())


# -- Gradients and networks -------------------------------------------------------------------------------------------


def test_gradients_of_a_term_reach_its_learner_only():
    model = build()
    losses = losses_of(model)
    own = "distillation.FeatureFusionSelfDistillation."
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    network = dict(a="distillation.networks.a.", b="distillation.networks.b.", top="")
    for name, value in {**terms_of(losses), "fusion.loss_cls": sum(losses["fusion.loss_cls"])}.items():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        reached = {
            names[id(parameter)]
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and gradient.any()
        }
        learner, _, term = name.partition(".")
        if term == "upsampling":
            allowed = (f"{own}upsampling.{learner}.",)
        elif learner == "fusion":
            allowed = (f"{own}fusion.",)
        else:
            parts = {
                "self": ("backbone",),
                "attention": ("backbone", "neck"),
                "diversity": ("backbone", "neck"),
            }
            allowed = tuple(
                network[learner] + part for part in parts.get(term, ("backbone", "neck", "bbox_head"))
            )
            allowed += (f"{own}reverse.",) if term == "reverse" else ()
        assert reached, name
        assert all(key.startswith(allowed) for key in reached), name


def test_every_parameter_has_a_gradient():
    model = build()
    total, _ = model.parse_losses(losses_of(model))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_with_weights_zero_every_network_trains_as_it_does_alone():
    configs = networks()
    model = build(configs, ffsd=dict(ZERO, loss=dict(type="KDLoss", loss_weight=0.0)))
    alone = {name: MODELS.build(copy.deepcopy(config)).train() for name, config in configs.items()}
    for name, network in alone.items():
        network.load_state_dict(model.trained_networks[name].state_dict())
    optimizers = {
        name: torch.optim.SGD(each.parameters(), lr=1e-5, momentum=0.9)
        for name, each in {**alone, "": model}.items()
    }
    for number in range(4):
        inputs, samples = make_batch((2, 3), (64, 96), seed=number)
        pixels = [(image * 40 + 128).clamp(0, 255).byte() for image in inputs]
        logged = {}
        for name, each in {**alone, "": model}.items():
            data = each.data_preprocessor(
                dict(inputs=copy.deepcopy(pixels), data_samples=copy.deepcopy(samples)), training=True
            )
            total, logged[name] = each.parse_losses(each.loss(data["inputs"], data["data_samples"]))
            optimizers[name].zero_grad()
            total.backward()
            optimizers[name].step()
        for name in alone:
            for key in ("loss_cls", "loss_bbox"):
                assert logged[""][f"{name}.{key}"].item() == pytest.approx(logged[name][key].item(), rel=1e-6)


def test_leaders_file_loads_in_plain_mmdetection_and_predicts_bit_equal(tmp_path):
    configs = networks()
    configs["top"].test_cfg.score_thr = 0.0
    model = build(configs)
    total, _ = model.parse_losses(losses_of(model))
    total.backward()
    torch.optim.SGD(model.parameters(), lr=1e-6).step()
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("distillation.")}
    torch.save(
        dict(state_dict=state, meta=dict(dataset_meta=dict(classes=tuple("xyz")))), tmp_path / "top.pth"
    )
    plain = init_detector(
        Config(dict(model=configs["top"])), str(tmp_path / "top.pth"), device="cpu", palette="random"
    )
    assert list(plain.state_dict()) == list(state)
    inputs, samples = make_batch((1, 1))
    expected = plain.predict(inputs, copy.deepcopy(samples), rescale=False)
    found = model.eval().predict(inputs, copy.deepcopy(samples), rescale=False)
    for one, two in zip(found, expected, strict=True):
        assert len(two.pred_instances) > 0
        for key in ("bboxes", "scores", "labels"):
            assert torch.equal(one.pred_instances[key], two.pred_instances[key])


def test_average_of_weights_learns_by_its_own_networks():
    model = build()
    average = ExponentialMovingAverage(model, momentum=0.5).module.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    batch = make_batch((3, 2))
    expected, found = terms_of(losses_of(build(), batch)), terms_of(losses_of(average, batch))
    changed = terms_of(losses_of(model, batch))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
    assert not torch.allclose(changed["top.fusion"], expected["top.fusion"])


def test_terms_are_float32_in_mixed_precision():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(build())
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms_of(losses).values())


@pytest.mark.parametrize("objects", [(0, 0), (0, 1)])
def test_images_without_objects_train(objects):
    model = build()
    total, _ = model.parse_losses(losses_of(model, make_batch(objects)))
    total.backward()
    assert total.isfinite()


# -- Maps -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(64, 96), (50, 70), (33, 95)])
def test_transposed_convolutions_give_the_sizes_of_the_stages(height, width):
    """Strides 2, 4, 8: each stage rounds its size up."""
    halve = torch.nn.Conv2d(1, 1, 3, stride=2, padding=1)
    stages = [torch.zeros(1, 1, height, width)]
    for _ in range(2):
        stages.append(halve(stages[-1]))
    made = DeepToShallow(1, (4, 2), dict(type="BN"))(stages[2], [stages[1].shape[-2:], stages[0].shape[-2:]])
    assert [each.shape for each in made] == [(1, 4, *stages[1].shape[-2:]), (1, 2, height, width)]


def sized(*sizes):
    return [torch.zeros(1, 8 * (number + 1), size, size) for number, size in enumerate(sizes)]


def test_stages_are_those_that_the_neck_sees_before_the_last():
    found = find_deep_and_shallow(sized(32, 16, 8, 4), sized(16, 8, 4, 2, 1), "a")
    assert (found.level, found.stages) == (2, (2, 1))
    assert (found.deep_channels, found.channels) == (24, (24, 16))


@pytest.mark.parametrize(
    ("backbone", "neck"),
    [((16, 8, 8), (16, 8)), ((16, 8, 4), (16, 8)), ((8,), (8, 4)), ((16, 4), (16, 8, 4))],
    ids=["a stride of 1", "no map of the last size", "one stage", "a stride of 4"],
)
def test_maps_without_a_way_from_deep_to_shallow_are_refused(backbone, neck):
    with pytest.raises(
        UnsupportedError, match=r"network a: .* maps halve in size .*: upsampling_weight=0 leaves it"
    ):
        find_deep_and_shallow(sized(*backbone), sized(*neck), "a")


# -- Mistakes ---------------------------------------------------------------------------------------------------------


def wide_neck():
    config = dense("retinanet")
    config.neck.out_channels = config.bbox_head.in_channels = 48
    return config


def anchors(scale):
    config = dense("retinanet")
    config.bbox_head.anchor_generator.octave_base_scale = scale
    return config


@pytest.mark.parametrize(
    ("configs", "ffsd", "message"),
    [
        (None, dict(leader="tpo"), "leader='tpo' is none of its networks.*top.*; they are a, top, b"),
        (None, dict(leader=None), "leader=None is none of its networks"),
        (
            None,
            dict(among=["a", "top"]),
            "two students or more, and there is only 'a' beside the leader: add",
        ),
        (None, dict(loss_name="ffsd"), "loss_name must begin with 'loss', got 'ffsd'"),
        (None, dict(loss="KDLoss"), "loss must be a dict with a type, got 'KDLoss'"),
        (None, dict(norm_cfg="BN"), "norm_cfg must be a dict with a type, got 'BN'"),
        (None, dict(loss=dict(type="PKDLoss")), "PKDLoss does not compare two networks' logits"),
        (None, dict(diversity_weight=-1), "diversity_weight must be at least 0, got -1"),
        (None, dict(fusion_weight=dict(type="linear")), "fusion_weight: a schedule needs end"),
        (None, dict(learner="a"), "it has among=.* and no learner"),
        (dict(fusion=dense("retinanet")), {}, "no network may be called 'fusion', a name of its losses"),
        (
            dict(b=wide_neck()),
            {},
            "necks of a and b have 32 and 48 channels, .* set out_channels of the necks alike",
        ),
        (dict(b=anchors(3)), {}, r"\(student b, teacher top\) compares two heads prior by prior"),
        (
            dict(b=dense("retinanet", num_classes=4)),
            {},
            "top has 3 classes and b 4; .* set num_classes alike",
        ),
        (dict(b=two_stage()), {}, r"does not fit student FasterRCNN \(no bbox_head\)"),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(configs, ffsd, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message) as refused:
        build(networks() | (configs or {}), ffsd=ffsd)
    assert "\n" not in str(refused.value)


def test_widths_may_differ_where_no_student_distils_itself():
    model = build(networks() | dict(b=wide_neck()), ffsd=dict(diversity_weight=0))
    assert "b.self" not in terms_of(losses_of(model))


def test_a_batch_of_one_small_image_is_refused_in_one_line():
    with pytest.raises(
        UnsupportedError, match="a batch of 1 of 64x64 pixels: train with at least two images"
    ) as refused:
        losses_of(build(), make_batch((2,), (64, 64)))
    assert "\n" not in str(refused.value)
