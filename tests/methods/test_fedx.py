"""FedX: a pretraining that learns from the network it began with, and from its views' relations to other images."""

import copy

from lad.analysis.dry_run import describe
from lad.base.progress import Progress
from lad.errors import ConfigError, UnsupportedError
from lad.losses import nt_xent_loss, relation_agreement_loss
from lad.networks.embedding import EmbeddingNetwork

import pytest
import torch
import view_runs
from helpers import build, small_paa
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.logging import MessageHub
from view_runs import pretraining, random_views

NAMES = ("first", "second", "reference")


@pytest.fixture(autouse=True)
def second_step():
    """A first step takes the snapshot anew."""
    hub = MessageHub.get_current_instance()
    hub.update_info("iter", 1)
    yield
    hub.update_info("iter", 0)


def fedx(networks=None, projection=None, **settings):
    methods = [dict(type="ContrastiveLearning"), dict(type="FedX", **settings)]
    given = dict(networks=networks) if networks else {}
    return pretraining(methods=methods, projection=projection or {}, **given).train()


def moved(model):
    """The model after its snapshot was taken and its weights have changed."""
    model.take_snapshots(Progress())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.2)
    return model


def test_losses_are_those_of_the_paper():
    model = moved(fedx(global_contrastive=2.0, local_relation=3.0, global_relation=5.0)).eval()
    views = random_views(names=NAMES)
    found = model(views, {}, mode="loss")
    own = EmbeddingNetwork(model.student, model.distillation["projection"]["student"])
    start = model.teachers["student_at_start"].model
    assert not torch.equal(own(views["second"]), start(views["second"]))
    z1, z2, references = (own(views[name]) for name in NAMES)
    taught, taught_references = (start(views[name]) for name in NAMES[1:])
    predict = model.methods["FedX"].prediction["student"]
    expected = dict(
        loss_contrastive=nt_xent_loss(z1, z2, 0.1).mean(),
        loss_global_contrastive=2 * nt_xent_loss(predict(z1), taught, 0.1).mean(),
        loss_global_relation=5 * relation_agreement_loss(predict(z1), predict(z2), taught_references).mean(),
        loss_local_relation=3 * relation_agreement_loss(z1, z2, references).mean(),
    )
    assert set(found) == set(expected)
    torch.testing.assert_close(found, expected)
    assert min(value.item() for value in found.values()) > 1e-4


def test_gradients_reach_every_trained_weight_and_no_snapshot():
    model = moved(fedx())
    sum(model(random_views(names=NAMES), {}, mode="loss").values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert all(p.grad is None for p in model.teachers["student_at_start"].model.parameters())


def test_weight_of_0_is_not_computed_and_local_relations_need_no_snapshot():
    model = fedx(global_contrastive=0.0, global_relation=0.0)
    assert not model.teachers
    assert not list(model.methods["FedX"].parameters())
    assert set(model(random_views(names=NAMES), {}, mode="loss")) == {
        "loss_contrastive",
        "loss_local_relation",
    }


def test_snapshot_is_saved_and_a_resumed_run_keeps_it():
    model = moved(fedx())
    state = copy.deepcopy(model.state_dict())
    assert {key.split(".")[2] for key in state if key.startswith("distillation.snapshots.")} == {
        "student_at_start"
    }
    resumed = fedx()
    missing, unexpected = resumed.load_state_dict(state, strict=True)
    assert not missing
    assert not unexpected
    resumed.take_snapshots(Progress(iteration=3, epoch=1))
    views = random_views(names=NAMES)
    torch.testing.assert_close(
        resumed.eval()(views, {}, mode="loss"), model.eval()(views, {}, mode="loss"), rtol=0, atol=0
    )


def test_plain_detector_takes_backbone_and_neck():
    model = moved(fedx())
    state = {key: value for key, value in model.state_dict().items() if not key.startswith("distillation.")}
    plain = build(small_paa())
    _, unexpected = plain.load_state_dict(state, strict=False)
    assert not unexpected
    assert torch.equal(plain.backbone.conv1.weight, model.backbone.conv1.weight)


def test_each_of_several_networks_learns_from_its_own_snapshot():
    networks = dict(small=small_paa(), big=small_paa(base=12))
    networks["big"].data_preprocessor.update(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=False)
    model = moved(fedx(networks, projection=dict(out_channels=16))).eval()
    samples = {name: _samples() for name in NAMES}
    found = model(random_views(names=NAMES), samples, mode="loss")
    assert {name.partition(".")[0] for name in found} == {"small", "big"}
    assert len(found) == 8
    images = model.network_inputs("big", random_views(names=NAMES)["second"], samples["second"])
    steps = model._embed_by_snapshots(random_views(names=NAMES), samples)
    # The untrained network's embeddings are large, and a batch of another size is rounded otherwise.
    expected = model.teachers["big_at_start"].model(images)
    torch.testing.assert_close(steps["big"].second, expected, rtol=1e-3, atol=1.0)
    other = model.teachers["big_at_start"].model(random_views(names=NAMES)["second"])
    assert (other - expected).abs().max() > 100


def _samples():
    return [DetDataSample(metainfo=dict(img_shape=(64, 64))) for _ in range(4)]


def test_two_processes_train_as_one_does(tmp_path):
    found = view_runs.run(view_runs.fedx_step, tmp_path)
    torch.testing.assert_close(found[2]["losses"], found[1]["losses"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[2]["gradient"], found[1]["gradient"], rtol=1e-4, atol=1e-6)


def test_batches_without_other_images_are_refused_and_so_are_needless_ones():
    with pytest.raises(UnsupportedError, match=r"views first, second, reference .* references=True"):
        fedx()(random_views(), {}, mode="loss")
    with pytest.raises(UnsupportedError, match=r"views first, second of .* got first, second, reference"):
        pretraining()(random_views(names=NAMES), {}, mode="loss")
    with pytest.raises(UnsupportedError, match="batch of one image"):
        fedx()(random_views(images=1, names=NAMES), {}, mode="loss")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(local_relation=-1), "local_relation must be at least 0"),
        (dict(local_relation=float("nan")), "local_relation must be a number"),
        (dict(global_relation=float("inf")), "global_relation must be a number"),
        (dict(temperature=0), "temperature must be positive"),
        (dict(global_contrastive=0, local_relation=0, global_relation=0), "all weights are 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MODELS.build(dict(type="FedX", **settings))


def test_dry_run_lists_the_losses():
    text = describe(fedx(global_relation=0.5))
    for term, weight in dict(global_contrastive="1", local_relation="1", global_relation="0.5").items():
        line = next(line for line in text.splitlines() if line.startswith(f"loss_{term}"))
        assert line.split()[1] == weight
