"""DoGo: networks that are pretrained together learn each other's similarities of images."""

import copy
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.detectors import SelfSupervisedPretraining
from lad.detectors.configs import check_layer_decay
from lad.engine.hooks import CheckpointFitHook, SaveNetworksHook
from lad.errors import CheckpointError, ConfigError, UnsupportedError
from lad.losses import nt_xent_loss, similarity_divergence
from lad.methods import SimilarityDistillation
from lad.networks.backbone_and_neck import pooled_features

import pytest
import torch
from helpers import build, small_paa
from mmdet.structures import DetDataSample
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop
from view_runs import pretraining, random_views


def other_normalisation():
    """Red first, other means and standard deviations."""
    config = small_paa()
    config.data_preprocessor.update(mean=[1.0, 2.0, 3.0], std=[4.0, 5.0, 6.0], bgr_to_rgb=False)
    return config


def dogo(weight=1.0, networks=None, **settings):
    networks = networks or dict(small=small_paa(), big=small_paa(base=12))
    methods = [dict(type="ContrastiveLearning", temperature=0.5)]
    methods.append(dict(type="SimilarityDistillation", weight=weight))
    config = dict(type="SelfSupervisedPretraining", networks=networks, methods=methods)
    return build(config | settings)


def embeddings(model, views=None):
    return model.embed_views(views or random_views(), {})


def test_losses_are_nt_xent_and_the_divergence_from_the_other_of_each_network():
    model = dogo(weight=dict(small=2.0, big=0.5)).train()
    found = model(random_views(), {}, mode="loss")
    small, big = embeddings(model).values()
    expected = {
        "small.loss_contrastive": nt_xent_loss(small.first, small.second, 0.5).mean(),
        "big.loss_contrastive": nt_xent_loss(big.first, big.second, 0.5).mean(),
        "small.loss_similarity": 2
        * similarity_divergence(small.first, small.second, big.first, big.second).mean(),
        "big.loss_similarity": 0.5
        * similarity_divergence(big.first, big.second, small.first, small.second).mean(),
    }
    assert list(found) == list(expected)
    torch.testing.assert_close(found, expected)
    assert min(value.item() for value in found.values()) > 1e-3
    describe_weights = {line.split()[0]: line.split()[1] for line in describe(model).splitlines()[-4:]}
    assert describe_weights["small.loss_similarity"] == "2"
    assert describe_weights["big.loss_similarity"] == "0.5"


@pytest.mark.parametrize("weight", [0, dict(small=0, big=0.0)])
def test_weights_that_leave_nothing_to_learn_are_refused(weight):
    with pytest.raises(ConfigError, match="weight is 0 for all networks"):
        SimilarityDistillation(weight=weight)


def test_default_weight_is_the_authors_at_their_batch_size():
    """They average the 256 x 256 terms and weigh them by 100; here the mean is over 256 rows."""
    method = SimilarityDistillation()
    method.bind(["a", "b"])
    embedding = torch.randn(4, 256, 8, generator=torch.Generator().manual_seed(0))
    rows = similarity_divergence(*embedding)
    own, taught = (
        torch.nn.functional.normalize(first, dim=1) @ torch.nn.functional.normalize(second, dim=1).T / 0.1
        for first, second in (embedding[:2], embedding[2:])
    )
    theirs = 100 * torch.nn.functional.kl_div(own.log_softmax(1), taught.softmax(1), reduction="none").mean()
    torch.testing.assert_close(method.weights["a"] * rows.mean(), theirs)


def test_network_learns_nothing_from_what_it_teaches():
    model = dogo().train()
    losses = model(random_views(), {}, mode="loss")
    losses["small.loss_similarity"].backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert all(
        (gradient is None) == ("networks.big." in name or "projection.big." in name)
        for name, gradient in gradients.items()
        if model.get_parameter(_inside(name)).requires_grad
    )


def _inside(name):
    if name.startswith("distillation.networks."):
        return name.replace("distillation.networks.", "peers.")
    return name if name.startswith("distillation.") else f"student.{name}"


def test_several_peers_count_by_their_mean():
    networks = {name: small_paa() for name in "abc"}
    model = dogo(networks=networks).train()
    found = model(random_views(), {}, mode="loss")
    a, b, c = embeddings(model).values()
    from_b, from_c = (
        similarity_divergence(a.first, a.second, other.first, other.second).mean() for other in (b, c)
    )
    torch.testing.assert_close(found["a.loss_similarity"], (from_b + from_c) / 2)


def test_network_of_weight_0_teaches_and_has_no_term():
    losses = dogo(weight=dict(small=1.0, big=0.0))(random_views(), {}, mode="loss")
    assert "big.loss_similarity" not in losses
    assert "small.loss_similarity" in losses


def test_every_network_gets_the_views_as_its_own_config_normalises_them():
    model = dogo(networks=dict(small=small_paa(), big=other_normalisation())).eval()
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 64)))
    data = dict(
        inputs=dict(first=[image, image.flip(2)], second=[image.flip(1), image.flip(0)]),
        data_samples=dict(first=[sample] * 2, second=[sample] * 2),
    )
    data = model.data_preprocessor(copy.deepcopy(data), True)
    found = model.embed_views(data["inputs"], data["data_samples"])["big"].first
    # All views in one batch, as the model has them: a batch of another size rounds otherwise.
    pixels = torch.stack([image, image.flip(2), image.flip(1), image.flip(0)]).float()
    normalised = (pixels - torch.tensor([1.0, 2, 3]).view(3, 1, 1)) / torch.tensor([4.0, 5, 6]).view(3, 1, 1)
    features = pooled_features(model.peers["big"], normalised)
    torch.testing.assert_close(found, model.distillation["projection"]["big"](features)[:2])


def test_initial_weights_are_those_of_each_network_alone():
    """Of the deployed one; the others follow it in the generator, and projections draw nothing."""
    torch.manual_seed(5)
    model = SelfSupervisedPretraining(
        networks=dict(big=small_paa(base=12), small=small_paa()),
        deploy="small",
        methods=[dict(type="ContrastiveLearning"), dict(type="SimilarityDistillation")],
    )
    torch.manual_seed(5)
    alone = SelfSupervisedPretraining(small_paa(), [dict(type="ContrastiveLearning")])
    assert model.deploy == "small"
    assert all(
        torch.equal(own, plain)
        for own, plain in zip(model.student.parameters(), alone.student.parameters(), strict=True)
    )


def test_checkpoint_is_the_deployed_networks_and_each_networks_own_is_that_of_its_pretraining(tmp_path):
    model = dogo()
    alone = {name: pretraining(config).state_dict() for name, config in dogo_configs().items()}
    state = model.state_dict()
    assert [key for key in state if not key.startswith("distillation.")] == [
        key for key in alone["small"] if not key.startswith("distillation.")
    ]
    torch.save(dict(state_dict=state, meta={}), tmp_path / "epoch_1.pth")
    notes = SimpleNamespace(runtime_info=dict(last_ckpt=str(tmp_path / "epoch_1.pth")))
    runner = SimpleNamespace(model=model, work_dir=str(tmp_path), message_hub=notes)
    hook = SaveNetworksHook()
    hook.before_train(runner)
    hook.after_train(runner)
    for name, network in model.trained_networks.items():
        own = torch.load(tmp_path / f"{name}_epoch_1.pth")["state_dict"]
        assert {key: value.shape for key, value in own.items()} == {
            key: value.shape for key, value in alone[name].items()
        }
        assert all(torch.equal(own[key], value) for key, value in network.state_dict().items())
        projection = model.distillation["projection"][name].state_dict()
        for key, value in projection.items():
            assert torch.equal(own[f"distillation.projection.student.{key}"], value)
        _load_from(build(dogo_configs()[name]), own)
    with pytest.raises(CheckpointError, match="load_from"):
        _load_from(build(small_paa(base=12)), state)


def dogo_configs():
    return dict(small=small_paa(), big=small_paa(base=12))


def _load_from(detector, state):
    """What a training that starts from a checkpoint checks of it."""
    runner = SimpleNamespace(
        model=detector,
        cfg=Config({}),
        _resume=False,
        _load_from="pretrained.pth",
        _train_loop=object.__new__(EpochBasedTrainLoop),
        logger=SimpleNamespace(warning=lambda text: None),
    )
    CheckpointFitHook().after_load_checkpoint(runner, dict(state_dict=state))


def test_batch_of_one_image_is_refused():
    with pytest.raises(UnsupportedError, match="batch of one image"):
        dogo()(random_views(1), {}, mode="loss")


def test_learning_rates_that_decay_layer_by_layer_are_refused():
    model = dict(type="SelfSupervisedPretraining", networks=dict(a="a.py", b="b.py"))
    cfg = Config(dict(model=model, optim_wrapper=dict(paramwise_cfg=dict(layer_decay_rate=0.7))))
    with pytest.raises(ConfigError, match="layer_decay_rate"):
        check_layer_decay(cfg)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (dict(networks=None, student=small_paa()), "there is one: give several"),
        (dict(student=small_paa()), "SelfSupervisedPretraining needs student=CONFIG, or several .* got both"),
        (dict(networks=dict(a=small_paa())), "two trained networks or more"),
        (dict(deploy="medium"), "deploy='medium' is no network"),
        (dict(method=dict(weight=-1)), "weight must be at least 0, got -1"),
        (dict(method=dict(weight="1")), "weight must be a number, got '1'"),
        (dict(method=dict(weight=True)), "weight must be a number, got True"),
        (dict(method=dict(weight=dict(small=1, bug=1))), "weight names 'bug'.*nearest: big"),
        (dict(method=dict(weight=dict(small=1))), "no factor of network 'big'"),
        (dict(method=dict(weight=dict(small=1, big=-1))), "weight of big must be at least 0"),
        (dict(method=dict(temperature=0)), "temperature must be positive, got 0"),
        (dict(method=dict(temperature=None)), "temperature must be a number, got None"),
    ],
)
def test_what_cannot_work_is_refused_when_it_is_built(settings, message):
    config = dict(networks=dict(small=small_paa(), big=small_paa())) | settings
    method = dict(type="SimilarityDistillation") | config.pop("method", {})
    with pytest.raises(ConfigError, match=message):
        SelfSupervisedPretraining(methods=[method], **config)
