"""Detectors for images of one, four and six channels teach and learn as those for three do."""

import copy
import logging
from types import SimpleNamespace

from lad.analysis.dry_run import describe
from lad.analysis.pictures.assignments import assignment_pictures
from lad.analysis.profiling import profile_config
from lad.engine.hooks import TeacherCheckHook
from lad.errors import ConfigError, UnsupportedError
from lad.networks.cache import fingerprint

import pytest
import torch
from helpers import build, distillation_of, make_batch, small_paa
from image_channels import detector, preprocessing
from mmdet.registry import MODELS
from mmengine.config import Config
from two_stage_detectors import seeded_loss, two_stage

FEATURES = dict(type="FeatureDistillation", loss=dict(type="CWDLoss"))
SIZE = (128, 128)


def images_of(channels, count=2, seed=0):
    """Images of bytes and their ground truth, as a data loader gives them."""
    _, samples = make_batch((2, 1, 3)[:count], SIZE, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randint(0, 256, (channels, *SIZE), generator=generator).byte() for _ in samples]
    return dict(inputs=inputs, data_samples=samples)


def prepared(model, data, training=True):
    data = model.data_preprocessor(copy.deepcopy(data), training=training)
    return data["inputs"], data["data_samples"]


def assert_equal_maps(found, expected):
    """Renormalised pixels differ by rounding, and activations of random weights may be in the thousands."""
    for ours, wanted in zip(found, expected, strict=True):
        assert (ours - wanted).abs().max() <= 1e-4 * wanted.abs().max()


def paa(channels=1, values=1, base=8):
    config = small_paa(base=base)
    config.backbone.in_channels = channels
    config.data_preprocessor = preprocessing(values)
    return config


CASES = [
    ("retinanet", "neck", 1, 1, None),
    ("retinanet", "neck", 4, 4, 1),
    ("faster", "neck", 6, None, 6),
    ("detr", "neck", 1, None, 1),
    ("rtmdet", "neck", 4, 1, 4),
    ("yolox", "neck", 6, 6, None),
    ("ssdlite", "backbone", 1, 1, None),
    ("ssd", "backbone", 4, None, 1),
]


@pytest.mark.parametrize(("family", "module", "channels", "values", "taught_values"), CASES)
def test_students_learn_from_teachers_of_images_of_as_many_channels(
    tmp_path, family, module, channels, values, taught_values
):
    student = detector(family, channels, values)
    teacher = detector(family, channels, taught_values)
    method = dict(FEATURES, student=module, teacher=module)
    model = distillation_of(tmp_path, student, teacher, method).train()
    model.init_weights()
    data = images_of(channels)
    inputs, samples = prepared(model, data)
    # The teacher has what it has when it is asked alone.
    view = model.teacher.view(inputs, samples, [module])
    alone, _ = prepared(model.teacher.model, data, training=False)
    with torch.no_grad():
        expected = getattr(model.teacher.model, "extract_feat" if module == "neck" else "backbone")(alone)
    assert_equal_maps(view.outputs[module], expected)
    if family == "ssd":
        return  # a step on images as large as its neck needs takes seconds
    losses = model.loss(inputs, samples)
    total, logged = model.parse_losses(losses)
    total.backward()
    assert float(logged["loss_cwd"]) > 0
    first = next(weight for weight in model.backbone.parameters() if weight.dim() == 4)
    assert first.shape[1] % channels == 0
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize(("channels", "values"), [(1, 1), (4, None), (6, 6)])
def test_with_weights_of_zero_it_is_the_plain_detectors_training(tmp_path, channels, values):
    config = detector("retinanet", channels, values)
    method = dict(FEATURES, loss=dict(type="CWDLoss", loss_weight=0.0), student="neck", teacher="neck")
    model = distillation_of(tmp_path, config, config, method).train()
    data = images_of(channels)
    plain = build(config).train()
    expected = plain.loss(*prepared(plain, data))
    losses = model.loss(*prepared(model, data))
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, rtol=0, atol=0)


# -- Grey images for colour networks ----------------------------------------------------------------------------------


@pytest.mark.parametrize("values", [None, 1, 3])
def test_a_colour_teacher_of_a_grey_student_sees_what_a_grey_file_is_read_as(tmp_path, values):
    student, teacher = detector("faster", 1), detector("faster", 3, values)
    method = dict(FEATURES, student="neck", teacher="neck")
    model = distillation_of(tmp_path, student, teacher, method, dict(type="RCNNDistillation")).train()
    data = images_of(1)
    inputs, samples = prepared(model, data)
    assert inputs.shape[1] == 1
    colour = dict(data, inputs=[image.expand(3, -1, -1) for image in data["inputs"]])
    alone, _ = prepared(model.teacher.model, colour, training=False)
    with torch.no_grad():
        expected = model.teacher.model.extract_feat(alone)
    assert_equal_maps(model.teacher.view(inputs, samples, ["neck"]).outputs["neck"], expected)
    losses = seeded_loss(model, inputs, samples)
    assert losses["loss_cwd"] > 0
    assert torch.isfinite(losses["loss_cls_soft"])


def test_colour_peers_of_a_grey_network_train_as_they_do_alone_on_grey_files():
    grey, colour = detector("faster", 1), two_stage()
    config = dict(type="DistillationDetector", networks=dict(a=grey, b=colour), methods=[])
    model = MODELS.build(copy.deepcopy(config)).train()
    for name, network in model.trained_networks.items():
        network.load_state_dict(build(dict(a=grey, b=colour)[name]).state_dict())
    data = images_of(1)
    losses = seeded_loss(model, *prepared(model, data))
    plain = build(colour).train()
    wide = dict(data, inputs=[image.expand(3, -1, -1) for image in data["inputs"]])
    for name, value in seeded_loss(plain, *prepared(plain, wide)).items():
        torch.testing.assert_close(losses[f"b.{name}"], value, rtol=0, atol=0)


@pytest.mark.parametrize(("own", "taught"), [(3, 1), (1, 4), (4, 3), (6, 4)])
def test_other_numbers_are_refused_in_one_line(tmp_path, own, taught):
    configs = detector("retinanet", own), detector("retinanet", taught)
    with pytest.raises(
        UnsupportedError, match=rf"^teacher \(RetinaNet\) takes images of {taught} .* have {own}: give both"
    ):
        distillation_of(tmp_path, *configs, dict(FEATURES, student="neck", teacher="neck"))
    networks = dict(zip("ab", configs, strict=True))
    with pytest.raises(
        UnsupportedError, match=rf"^network b \(RetinaNet\) takes images of {taught} .* have {own}"
    ):
        MODELS.build(dict(type="DistillationDetector", networks=networks, methods=[]))


def test_a_teacher_whose_own_config_does_not_fit_is_refused(tmp_path):
    teacher = detector("retinanet", 1, 3)
    with pytest.raises(ConfigError, match=r"^teacher\.data_preprocessor has mean and std of 3 values"):
        distillation_of(tmp_path, detector("retinanet", 1), teacher)


# -- What else looks at images ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("own", "taught"), [(1, 1), (4, 4), (1, 3)])
def test_dry_run_and_profile_show_networks_their_own_images(tmp_path, own, taught):
    student, teacher = detector("retinanet", own), detector("retinanet", taught)
    method = dict(FEATURES, student="neck", teacher="neck")
    text = describe(distillation_of(tmp_path, student, teacher, method))
    assert "2x32x16x16" in text
    assert "could not be computed" not in text
    model = dict(
        type="DistillationDetector",
        student=student,
        teacher=dict(teacher, checkpoint=str(tmp_path / "teacher.pth")),
        methods=[method],
    )
    report = profile_config(
        Config(dict(model=model)), shape=SIZE, batch_size=2, objects=1, steps=1, device="cpu"
    )
    macs = {name: network.macs for name, network in report.networks.items()}
    # They differ by their first convolution alone: 7 x 7 for 8 maps of half the size.
    assert macs["teacher"] - macs["student"] == (taught - own) * 49 * 8 * 64 * 64
    assert report.step.steps == 1


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
def test_pictures_show_grey_images_grey_and_the_first_three_channels_of_others(channels):
    data = images_of(channels)
    picture, _ = assignment_pictures(build(paa(channels)), data)
    shown = [0, 0, 0] if channels < 3 else [2, 1, 0]
    assert (picture.image == data["inputs"][0][shown].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize(("own", "taught"), [(1, 1), (6, 6), (1, 3)])
def test_the_check_of_the_teacher_shows_it_its_own_images(tmp_path, caplog, own, taught):
    model = distillation_of(
        tmp_path, paa(own), paa(taught, values=None), dict(type="LabelAssignmentDistillation")
    )
    items = [
        dict(inputs=data["inputs"][0], data_samples=data["data_samples"][0])
        for data in (images_of(own, count=1, seed=seed) for seed in range(4))
    ]
    seen = []
    model.teacher.model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    logger = logging.getLogger("image_channels")
    loop = SimpleNamespace(dataloader=SimpleNamespace(dataset=items))
    with caplog.at_level(logging.INFO, logger="image_channels"):
        TeacherCheckHook(images=4).before_train(SimpleNamespace(model=model, train_loop=loop, logger=logger))
    assert "could not be checked" not in caplog.text
    assert "AP50" in caplog.text
    assert set(seen) == {taught}


@pytest.mark.parametrize("values", [None, 1])
@pytest.mark.parametrize("channels", [1, 4])
def test_a_cached_teacher_is_found_again(tmp_path, channels, values):
    method = dict(type="LabelAssignmentDistillation", cache=dict(dir=str(tmp_path / "cache")))
    model = distillation_of(tmp_path, paa(channels, values), paa(channels), method).train()
    data = images_of(channels)
    first, second = (model.loss(*prepared(model, data)) for _ in range(2))
    cache = model.methods[0].cache
    assert (cache.statistics.misses, cache.statistics.hits) == (2, 2)
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=1e-5, atol=1e-6)
    keys = {fingerprint(image, sample) for image, sample in zip(*data.values(), strict=True)}
    assert len(keys) == 2
