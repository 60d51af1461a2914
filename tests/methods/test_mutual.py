"""MutualLogitDistillation: its terms by name and by hand, gradients, deployment, mistakes.

The two networks differ in backbone, norm and normalisation of images wherever that could hide a mix-up.
"""

import copy
from itertools import product

from lad.errors import ConfigError, UnsupportedError
from lad.methods.together.pairs import mutual_pairs

import pytest
import torch
import torch.nn.functional as F
from dense_detectors import dense, differing, flat, outputs_of
from detr_detectors import small_detr
from helpers import at, make_batch
from mmdet.apis import init_detector
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.model import ExponentialMovingAverage
from two_stage_detectors import two_stage

MUTUAL = dict(type="MutualLogitDistillation")
EXITS = dict(early=dict(levels=[1]), late=dict(levels=[1, 2]))
BOTH = dict(a=EXITS, b=EXITS)


def retina(**bbox_head):
    return dense("retinanet", **bbox_head)


def softmax_retina():
    config = retina()
    config.bbox_head.loss_cls = dict(type="CrossEntropyLoss", use_sigmoid=False)
    return config


def learn(networks=None, seed=0, mutual=None, **settings):
    """Networks that learn from each other, with random weights whose logits differ."""
    networks = networks or dict(a=retina(), b=differing(retina()))
    config = dict(type="DistillationDetector", networks=networks, methods=[dict(MUTUAL, **(mutual or {}))])
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
    return {name: value for name, value in losses.items() if "loss_mutual" in name}


# -- Terms ------------------------------------------------------------------------------------------------------------


def test_two_networks_with_two_exits_have_18_terms_and_their_sum():
    losses = losses_of(learn(exits=BOTH, mutual=dict(pairs="all")))
    a, b = ("a", "a.early", "a.late"), ("b", "b.early", "b.late")
    expected = {
        f"loss_mutual.{one}.{other}" for own, rest in ((a, b), (b, a)) for one, other in product(own, rest)
    }
    assert len(expected) == 18
    assert set(terms_of(losses)) == expected
    assert all(value > 0 for value in terms_of(losses).values())
    assert losses["sum_mutual"] == pytest.approx(sum(value.item() for value in terms_of(losses).values()))


def test_main_heads_alone_learn_by_default_with_exits_beside_them():
    assert set(terms_of(losses_of(learn(exits=BOTH)))) == {"loss_mutual.a.b", "loss_mutual.b.a"}


def test_pairs_are_ordered_and_never_within_a_network():
    pairs = mutual_pairs(["a", "b", "c", "a.x", "c.x"])
    assert len(set(pairs.values())) == len(pairs) == 2 * (2 * 1 + 2 * 2 + 1 * 2)
    assert all(learner.split(".")[0] != teacher.split(".")[0] for learner, teacher in pairs)
    assert pairs["a.x", "c.x"] == "a.x.c.x"


def quality(own, taught):
    """The quality focal loss of logits, by MMDetection's formula."""
    target = taught.sigmoid()
    return (target - own.sigmoid()).abs() * F.binary_cross_entropy_with_logits(own, target, reduction="none")


def labels_of(network, outputs, samples):
    """Labels and label weights (N, P) of a RetinaNet by its own assigner, and the divisor of its class loss."""
    head = network.bbox_head
    metas = [sample.metainfo for sample in samples]
    sizes = [level.shape[-2:] for level in outputs[0]]
    anchors, valid = head.get_anchors(sizes, metas, device="cpu")
    labels, weights, *_, avg_factor = head.get_targets(
        anchors, valid, [sample.gt_instances for sample in samples], metas, return_sampling_results=False
    )
    return torch.cat(labels, dim=1), torch.cat(weights, dim=1), avg_factor


@pytest.mark.parametrize("form", ["sigmoid", "softmax"])
def test_dense_terms_are_those_of_the_formula(form):
    config = retina() if form == "sigmoid" else softmax_retina()
    networks = dict(a=config, b=differing(config))
    model = learn(networks, mutual=dict(weight=0.5))
    inputs, samples = make_batch((3, 0, 5))
    losses = losses_of(model, (inputs, samples))
    channels = model.student.bbox_head.cls_out_channels
    outputs = {
        name: outputs_of(network, model.network_inputs(name, inputs, samples))
        for name, network in model.trained_networks.items()
    }
    logits = {name: flat(each[0], channels) for name, each in outputs.items()}
    for learner, teacher in ("ab", "ba"):
        _, counts, avg_factor = labels_of(model.trained_networks[learner], outputs[learner], samples)
        assert (counts == 0).any()
        own, taught = logits[learner], logits[teacher]
        if form == "sigmoid":
            element = quality(own, taught)
        else:
            element = F.kl_div(own.log_softmax(-1), taught.softmax(-1), reduction="none")
        expected = 0.5 * (element.sum(-1) * counts).sum() / avg_factor
        torch.testing.assert_close(losses[f"loss_mutual.{learner}.{teacher}"], expected, rtol=1e-4, atol=1e-6)


def test_terms_of_exits_are_those_of_the_formula():
    """RetinaNets of another normalisation, each with an exit; the exit of b teaches a, and learns from it."""
    model = learn(exits=dict(b=EXITS), mutual=dict(pairs="all"))
    inputs, samples = make_batch((3, 2))
    losses = losses_of(model, (inputs, samples))
    images = {name: model.network_inputs(name, inputs, samples) for name in "ab"}
    own = outputs_of(model.learners["a"], images["a"])
    taught = outputs_of(model.learners["b.late"], images["b"])
    _, counts, avg_factor = labels_of(model.learners["a"], own, samples)
    own, taught = (flat(outputs[0], 3) for outputs in (own, taught))
    for name, element in (("a.b.late", quality(own, taught)), ("b.late.a", quality(taught, own))):
        expected = (element.sum(-1) * counts).sum() / avg_factor
        torch.testing.assert_close(losses[f"loss_mutual.{name}"], expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["faster", "cascade"])
def test_roi_heads_are_compared_on_the_learners_own_proposals(kind):
    networks = dict(a=two_stage(kind), b=differing(two_stage(kind)))
    model = learn(networks)
    inputs, samples = make_batch((3, 2))
    seen = {}
    for name, network in model.trained_networks.items():
        heads = network.roi_head.bbox_head if kind == "cascade" else [network.roi_head.bbox_head]
        for stage, head in enumerate(heads):

            def record(
                cls_score, bbox_pred, rois, *args, place=(name, stage), own=head.loss_and_target, **kwargs
            ):
                seen[place] = rois, cls_score
                return own(cls_score, bbox_pred, rois, *args, **kwargs)

            head.loss_and_target = record
    losses = losses_of(model, (inputs, samples))
    weights = [1.0, 0.5, 0.25] if kind == "cascade" else [1.0]
    for learner, teacher in ("ab", "ba"):
        network = model.trained_networks[teacher]
        features = network.extract_feat(model.network_inputs(teacher, inputs, samples))
        for stage, weight in enumerate(weights):
            rois, own = seen[learner, stage]
            place = (stage,) if kind == "cascade" else ()
            taught = network.roi_head._bbox_forward(*place, features, rois)["cls_score"]
            expected = weight * F.kl_div(own.log_softmax(-1), taught.softmax(-1), reduction="batchmean")
            prefix = f"s{stage}." if kind == "cascade" else ""
            value = losses[f"{prefix}loss_mutual.{learner}.{teacher}"]
            torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    assert losses["sum_mutual"] == pytest.approx(sum(value.item() for value in terms_of(losses).values()))


def test_three_networks_have_six_terms_which_are_those_of_each_two():
    networks = dict(a=retina(), b=differing(retina()), c=retina())
    model = learn(networks)
    batch = make_batch((3, 5))
    terms = terms_of(losses_of(model, batch))
    assert set(terms) == {
        f"loss_mutual.{one}.{other}" for one, other in product("abc", "abc") if one != other
    }
    for first, second in ("ab", "ac", "bc"):
        two = learn({name: networks[name] for name in (first, second)}, seed=1)
        for name in (first, second):
            two.trained_networks[name].load_state_dict(model.trained_networks[name].state_dict())
        # What is deployed decides how the images come.
        inputs = model.network_inputs(first, *batch)
        for name, value in terms_of(losses_of(two, (inputs, batch[1]))).items():
            torch.testing.assert_close(terms[name], value, rtol=1e-4, atol=1e-6)


def test_two_of_three_networks_learn_from_each_differing():
    model = learn(dict(a=retina(), b=differing(retina()), c=retina()), mutual=dict(among=["c", "b"]))
    losses = losses_of(model)
    assert set(terms_of(losses)) == {"loss_mutual.b.c", "loss_mutual.c.b"}
    assert "a.loss_cls" in losses


def test_two_copies_of_one_network_have_nothing_to_learn():
    model = learn(dict(a=retina(), b=retina()))
    model.trained_networks["b"].load_state_dict(model.trained_networks["a"].state_dict())
    losses = losses_of(model)
    assert all(value == 0 for value in terms_of(losses).values())


def test_weight_follows_its_schedule():
    ramp = dict(type="linear", start=0.0, end=2.0, epochs=4)
    model, plain = learn(mutual=dict(weight=ramp)), learn()
    plain.load_state_dict(model.state_dict())
    batch = make_batch((3, 2))
    expected = terms_of(losses_of(plain, batch))
    for epoch, factor in ((0, 0.0), (1, 0.5), (4, 2.0), (9, 2.0)):
        at(model, 10 * epoch, epoch)
        for name, value in terms_of(losses_of(model, batch)).items():
            torch.testing.assert_close(value, factor * expected[name])


def test_loss_can_be_another_one_under_another_name():
    model = learn(mutual=dict(loss=dict(type="KDLoss", temperature=2.0), loss_name="loss_dml"))
    losses = losses_of(model)
    assert {"loss_dml.a.b", "loss_dml.b.a", "sum_dml"} <= set(losses)
    assert model.methods[0].comparison.loss.use_sigmoid


# -- Networks ---------------------------------------------------------------------------------------------------------


def logged_steps(model, count=6):
    """The own losses of some steps of training, each on images of its own."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.9)
    for number in range(count):
        inputs, samples = make_batch((2, 3), (64, 96), seed=number)
        pixels = [(image * 40 + 128).clamp(0, 255).byte() for image in inputs]
        data = model.data_preprocessor(dict(inputs=pixels, data_samples=samples), training=True)
        torch.manual_seed(number)
        total, logged = model.parse_losses(model.loss(data["inputs"], data["data_samples"]))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        yield {name: value.item() for name, value in logged.items() if "loss" in name}


@pytest.mark.parametrize("kind", ["dense", "roi"])
def test_with_weight_zero_every_network_trains_as_it_does_alone(kind):
    own = two_stage() if kind == "roi" else retina()
    networks = dict(a=own, b=differing(own))
    model = learn(networks, deploy="b", mutual=dict(weight=0))
    alone = {name: MODELS.build(copy.deepcopy(config)).train() for name, config in networks.items()}
    for name, network in alone.items():
        network.load_state_dict(model.trained_networks[name].state_dict())
    alone = {name: logged_steps(network) for name, network in alone.items()}
    for losses in logged_steps(model):
        assert not terms_of(losses)
        for name, plain in alone.items():
            for key, value in next(plain).items():
                if key != "loss":
                    assert losses[f"{name}.{key}"] == pytest.approx(value, rel=1e-6, abs=1e-6)


def test_sum_of_the_terms_is_no_loss_whatever_it_is_called():
    losses = losses_of(learn(mutual=dict(loss_name="loss_mutual_loss")))
    assert [name for name in losses if "sum" in name] == ["sum_mutual_sum"]


def test_with_weight_zero_networks_with_exits_train_as_without_the_method():
    model, plain = learn(exits=BOTH, mutual=dict(pairs="all", weight=0)), learn(exits=BOTH, methods=[])
    plain.load_state_dict(model.state_dict())
    for losses, expected in zip(logged_steps(model, 3), logged_steps(plain, 3), strict=True):
        assert {name: value for name, value in losses.items() if "mutual" not in name} == pytest.approx(
            expected, rel=1e-6
        )


@pytest.mark.parametrize("kind", ["dense", "roi"])
def test_gradients_of_a_term_reach_its_learner_only(kind):
    networks = dict(a=two_stage(), b=differing(two_stage())) if kind == "roi" else None
    model = learn(
        networks, exits={} if kind == "roi" else BOTH, mutual=dict(pairs="output" if kind == "roi" else "all")
    )
    losses = losses_of(model)
    starts = {"a": "", "b": "distillation.networks.b."}
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for name, value in terms_of(losses).items():
        learner = name.removeprefix("loss_mutual.")
        network, exit_name = learner[0], learner[2:].split(".")[0]
        is_exit = exit_name in EXITS
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        reached = {
            names[id(parameter)]
            for parameter, gradient in zip(parameters, gradients, strict=True)
            if gradient is not None and gradient.any()
        }
        own = f"distillation.exits.{network}.{exit_name}." if is_exit else starts[network]
        inside = {
            key
            for key in reached
            if key.startswith((own, f"{starts[network]}backbone."))
            and (own != "" or not key.startswith("distillation."))
        }
        assert reached == inside, name
        head = f"{own}roi_head" if kind == "roi" else f"{own}bbox_head"
        assert any(key.startswith(head) for key in reached), name


def test_every_parameter_has_a_gradient():
    model = learn(exits=BOTH, mutual=dict(pairs="all"))
    total, _ = model.parse_losses(losses_of(model))
    total.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_every_network_runs_once_a_step():
    model = learn(exits=BOTH, mutual=dict(pairs="all"))
    calls = []
    for name, network in model.learners.items():
        for part in (network.neck, network.bbox_head):
            place = name, type(part).__name__
            part.register_forward_hook(lambda *_, place=place: calls.append(place))
    for name, network in model.trained_networks.items():
        network.backbone.register_forward_hook(lambda *_, place=(name, "backbone"): calls.append(place))
    losses_of(model)
    assert len(calls) == len(set(calls)) == 6 * 2 + 2


@pytest.mark.parametrize("objects", [(0, 0), (0, 1), (1,)])
def test_images_without_objects_and_a_batch_of_one_image_train(objects):
    for networks in (None, dict(a=two_stage(), b=differing(two_stage()))):
        model = learn(networks)
        total, _ = model.parse_losses(losses_of(model, make_batch(objects)))
        total.backward()
        assert total.isfinite()


@pytest.mark.parametrize("deploy", ["a", "b"])
def test_every_networks_file_loads_in_plain_mmdetection_and_predicts_bit_equal(deploy, tmp_path):
    configs = dict(a=retina(), b=differing(retina()))
    for config in configs.values():
        config.test_cfg.score_thr = 0.0
    model = learn(configs, exits=BOTH, deploy=deploy, mutual=dict(pairs="all"))
    total, _ = model.parse_losses(losses_of(model))
    total.backward()
    torch.optim.SGD(model.parameters(), lr=1e-6).step()
    model.eval()
    inputs, samples = make_batch((1, 1))
    found = {name: network.predict for name, network in model.trained_networks.items()} | {
        deploy: model.predict
    }
    for name, config in configs.items():
        own = model.network_state(copy.deepcopy(model.state_dict()), name)
        torch.save(
            dict(state_dict=own, meta=dict(dataset_meta=dict(classes=tuple("xyz")))), tmp_path / f"{name}.pth"
        )
        plain = init_detector(
            Config(dict(model=config)), str(tmp_path / f"{name}.pth"), device="cpu", palette="random"
        )
        # Nothing is missing, nothing is too much.
        assert list(own) == list(plain.state_dict())
        assert all(torch.equal(own[key], value) for key, value in plain.state_dict().items())
        images = model.network_inputs(name, inputs, samples)
        expected = plain.predict(images, copy.deepcopy(samples), rescale=False)
        results = found[name](images, copy.deepcopy(samples), rescale=False)
        for one, two in zip(results, expected, strict=True):
            assert len(two.pred_instances) > 0
            for key in ("bboxes", "scores", "labels"):
                assert torch.equal(one.pred_instances[key], two.pred_instances[key])


def test_average_of_weights_learns_by_its_own_networks():
    model = learn(exits=BOTH, mutual=dict(pairs="all"))
    average = ExponentialMovingAverage(model, momentum=0.5).module.train()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    batch = make_batch((3, 2))
    fresh = learn(exits=BOTH, mutual=dict(pairs="all"))
    expected, found = terms_of(losses_of(fresh, batch)), terms_of(losses_of(average, batch))
    changed = terms_of(losses_of(model, batch))
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value)
        assert not torch.allclose(changed[name], value)


@pytest.mark.parametrize("kind", ["dense", "roi"])
def test_terms_are_float32_in_mixed_precision(kind):
    model = learn(dict(a=two_stage(), b=differing(two_stage())) if kind == "roi" else None)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = losses_of(model)
    assert all(value.dtype == torch.float32 and value.isfinite() for value in terms_of(losses).values())


def test_labels_of_a_shared_assignment_can_be_learnt_beside_it():
    """CoLAD decides the labels and the networks learn each other's logits on them."""
    networks = dict(a=dense("paa"), b=differing(dense("paa")))
    shared = dict(type="CoLearningAssignment", switch=dict(type="StdMeanSwitch", per="gt_level"))
    losses = losses_of(learn(networks, methods=[shared, MUTUAL]))
    assert {"a.share", "a.loss_cls", "loss_mutual.a.b", "loss_mutual.b.a"} <= set(losses)
    assert losses["loss_mutual.a.b"] > 0


# -- Mistakes ---------------------------------------------------------------------------------------------------------


def proposals():
    """A region proposal network alone, without classes."""
    config = two_stage()
    for part in ("roi_head", "train_cfg", "test_cfg"):
        rest = config.pop(part)
        if part != "roi_head":
            config[part] = dict(rpn=rest.rpn)
    config.type = "RPN"
    return config


def anchors(scale):
    config = retina()
    config.bbox_head.anchor_generator.octave_base_scale = scale
    return config


@pytest.mark.parametrize(
    ("networks", "mutual", "more", "message"),
    [
        (None, dict(pairs="both"), {}, "pairs must be 'output' or 'all', got 'both'"),
        (None, dict(loss_name="mutual"), {}, "loss_name must begin with 'loss', got 'mutual'"),
        (None, dict(weight=-1), {}, "weight must be at least 0, got -1"),
        (None, dict(loss="KDLoss"), {}, r"loss must be like dict\(type='KDLoss'\), got 'KDLoss'"),
        (dict(a=proposals(), b=proposals()), {}, {}, r"does not fit student RPN \(RPNHead\)"),
        (None, dict(weight=dict(type="linear")), {}, "MutualLogitDistillation: weight: a schedule needs end"),
        (None, dict(pairs="all"), {}, r"pairs='all' compares exits too, and a, b have none: add exits=dict"),
        (None, dict(learner="a"), {}, "it has among=.* and no learner"),
        (None, dict(among=["a"]), {}, r"among names two or more of them; got \['a'\] of a, b"),
        (None, dict(loss=dict(type="PKDLoss")), {}, "PKDLoss does not compare two networks' logits"),
        (None, {}, dict(deploy="c"), "deploy='c' is no network"),
        (
            None,
            dict(pairs="all"),
            dict(exits=dict(a=dict(b=dict(levels=[1])))),
            "the exit a.b is called like the network 'b', .*: give the exit another name",
        ),
        (
            dict(a=retina(), b=anchors(3)),
            {},
            {},
            r"\(student a, teacher b\) compares two heads prior by prior, and .* different anchors .*; set the same",
        ),
        (dict(a=retina(), b=dense("fcos")), {}, {}, r"student a, teacher b\) compares .* anchors on level 0"),
        (
            dict(a=retina(), b=retina(num_classes=4)),
            {},
            {},
            "a has 3 classes and b 4; .* need the same classes: set num_classes alike",
        ),
        (
            dict(a=retina(), b=softmax_retina()),
            {},
            {},
            "the student's classifier is sigmoid and the teacher's softmax",
        ),
        (
            dict(a=retina(), b=two_stage()),
            {},
            {},
            r"compares dense heads with dense heads .*; among are a \(RetinaNet\), b \(FasterRCNN\): name networks",
        ),
        (
            dict(a=two_stage(), b=two_stage()),
            dict(pairs="all"),
            {},
            "pairs='all' compares exits too, and a, b have none: RoI heads have none, leave out pairs",
        ),
        (
            dict(a=two_stage("cascade"), b=two_stage(num_classes=4)),
            {},
            {},
            "a has 3 classes and b 4",
        ),
        (
            dict(
                a=two_stage(),
                b=two_stage(head=dict(loss_cls=dict(type="CrossEntropyLoss", use_sigmoid=True))),
            ),
            {},
            {},
            r"\(student a, teacher b\): .* classifier is softmax .* and the teacher's sigmoid",
        ),
        (
            dict(a=small_detr("one_stage"), b=small_detr("one_stage")),
            {},
            {},
            "does not fit student DeformableDETR .*; it works with RetinaNet, FCOS",
        ),
        (
            dict(a=two_stage(), b=two_stage()),
            {},
            dict(exits=dict(a=dict(early=dict(levels=[1])))),
            "exit a.early: FasterRCNN has no dense head whose priors an exit could share",
        ),
        (
            None,
            {},
            dict(methods=[MUTUAL, dict(MUTUAL, name="again")]),
            "two methods call their loss 'loss_mutual': give one another loss_name",
        ),
    ],
)
def test_what_cannot_work_is_refused_in_one_line(networks, mutual, more, message):
    with pytest.raises((ConfigError, UnsupportedError), match=message) as refused:
        learn(networks, mutual=mutual, **more)
    assert "\n" not in str(refused.value)
