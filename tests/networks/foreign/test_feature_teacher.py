"""Models of dense features as teachers: tokens, sizes, normalisation, weights, and what a teacher is in a training."""

import copy
import importlib
import json

from lad.analysis.dry_run import describe
from lad.analysis.profiling import profile_config
from lad.errors import CheckpointError, ConfigError, MissingPackageError, UnsupportedError
from lad.networks.building import build_teacher
from lad.networks.foreign.dense_features import fit_images, tokens_of_patches

import numpy as np
import pytest
import torch
from helpers import Malicious, make_batch, small_paa
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS
from mmdet.structures import DetDataSample
from mmengine.config import Config

TINY = dict(embed_dim=32, depth=3, num_heads=2)
TIMM = {
    "DINOv2 with registers": (dict(name="vit_small_patch14_reg4_dinov2", **TINY), 14),
    "DINOv3": (dict(name="vit_small_patch16_dinov3", **TINY), 16),
    "SigLIP": (dict(name="vit_base_patch16_siglip_224", **TINY), 16),
}
SMALL = dict(hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64)
TRANSFORMERS = {
    "DINOv2": dict(model_type="dinov2", patch_size=14, image_size=56, **SMALL),
    "DINOv2 with registers": dict(
        model_type="dinov2_with_registers", patch_size=14, image_size=56, num_register_tokens=4, **SMALL
    ),
    "DINOv3": dict(model_type="dinov3_vit", patch_size=16, image_size=64, num_register_tokens=4, **SMALL),
    "SigLIP": dict(model_type="siglip_vision_model", patch_size=16, image_size=64, **SMALL),
}
NORMALISED = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def timm():
    return pytest.importorskip("timm", reason="extra foundation: pip install 'lad-detection[foundation]'")


def transformers():
    return pytest.importorskip(
        "transformers", reason="extra foundation: pip install 'lad-detection[foundation]'"
    )


def randomise(net, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    net.eval()  # of some of MMDetection's backbones it returns nothing
    return net


def timm_net(name, **settings):
    return timm().create_model(name, **settings)


def timm_file(folder, name="DINOv2 with registers", **settings):
    """A file of random weights of a tiny model, its config, and the model."""
    from safetensors.torch import save_file

    config, _ = TIMM[name]
    net = randomise(timm_net(**config, num_classes=0, **settings))
    path = str(folder / "net.safetensors")
    save_file(net.state_dict(), path)
    return path, dict(type="timm", **config), net


def transformers_net(name):
    library = transformers()
    settings = copy.deepcopy(TRANSFORMERS[name])
    return randomise(library.AutoModel.from_config(library.AutoConfig.for_model(**settings)))


def teacher_of(spec, **student):
    config = small_paa()
    config.data_preprocessor.update(student)
    return build_teacher(spec, MODELS.build(config))


@pytest.fixture
def spec(tmp_path):
    path, model, _ = timm_file(tmp_path)
    return dict(type="FeatureTeacher", model=model, layers=[0, -1], checkpoint=path)


@pytest.fixture
def resnet(tmp_path):
    """A teacher that needs no further package: a backbone of MMDetection's."""
    model = dict(type="ResNet", depth=18, base_channels=8, num_stages=4, out_indices=(0, 1, 2, 3))
    net = randomise(MODELS.build(model))
    path = str(tmp_path / "resnet.pth")
    torch.save(net.state_dict(), path)
    return dict(type="FeatureTeacher", model=model, layers=[1, 3], checkpoint=path, **NORMALISED)


def distilled(spec, *methods, **settings):
    methods = methods or (
        dict(
            type="FeatureDistillation", student=["neck[0]", "neck[2]"], teacher=["backbone[0]", "backbone[1]"]
        ),
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa(),
                teacher=copy.deepcopy(spec),
                methods=copy.deepcopy(list(methods)),
                **settings,
            )
        )


# -- Tokens and sizes ---------------------------------------------------------------------------------------------


def test_tokens_before_the_patches_are_dropped_and_the_rest_is_laid_out_row_by_row():
    # A class token, a register, then 2 x 3 patches of one channel.
    tokens = torch.tensor([[-1.0, -2.0, 10, 11, 12, 20, 21, 22]])[..., None]
    assert tokens_of_patches(tokens, (2, 3), "a ViT").tolist() == [[[[10, 11, 12], [20, 21, 22]]]]
    with pytest.raises(UnsupportedError, match=r"a ViT returns 8 tokens for 3 x 3 patches"):
        tokens_of_patches(tokens, (3, 3), "a ViT")


def test_images_become_the_nearest_multiples_of_a_patch():
    images = torch.randn(1, 3, 96, 128)
    assert fit_images(images, 14).shape[-2:] == (98, 126)  # 6.86 and 9.14 patches
    assert fit_images(images, 14, scale=0.875).shape[-2:] == (84, 112)  # 6 and 8: the stride is 16
    assert fit_images(images, 16) is images
    assert fit_images(torch.randn(1, 3, 3, 3), 14).shape[-2:] == (14, 14)


@given(height=st.integers(1, 200), width=st.integers(1, 200), multiple=st.sampled_from([1, 14, 16, 32]))
def test_fitted_sides_divide_and_are_no_further_than_half_a_patch(height, width, multiple):
    fitted = fit_images(torch.zeros(1, 1, height, width), multiple).shape[-2:]
    for before, after in zip((height, width), fitted, strict=True):
        assert after % multiple == 0
        assert after > 0
        assert abs(after - before) <= multiple / 2 or after == multiple


# -- Features are the library's own -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TIMM)
def test_maps_of_timm_are_its_normed_patch_tokens(tmp_path, name):
    path, model, net = timm_file(tmp_path, name, dynamic_img_size=True)
    patch = TIMM[name][1]
    teacher = teacher_of(dict(type="FeatureTeacher", model=model, layers=[1, -1], checkpoint=path))
    images = torch.randn(2, 3, 4 * patch, 6 * patch)
    with torch.no_grad():
        middle, last = teacher.model.extract_feat(images)
        tokens = net.forward_features(images)[:, net.num_prefix_tokens :]
        expected = net.get_intermediate_layers(images, [1], norm=True) if "siglip" in model["name"] else None
    torch.testing.assert_close(last, tokens.transpose(1, 2).reshape(2, 32, 4, 6))
    assert middle.shape == (2, 32, 4, 6)
    assert not torch.allclose(middle, last)
    if expected is not None:
        torch.testing.assert_close(middle, expected[0].transpose(1, 2).reshape(2, 32, 4, 6))


def test_layers_may_be_given_in_any_order_and_without_the_norm(tmp_path):
    path, model, _ = timm_file(tmp_path)
    teacher = teacher_of(
        dict(type="FeatureTeacher", model=dict(model, norm=False), layers=[2, 0], checkpoint=path)
    )
    tokens = {}
    for number in (0, 2):
        block = teacher.model.backbone.net.blocks[number]
        block.register_forward_hook(lambda *args, number=number: tokens.update({number: args[-1]}))
    late, early = teacher.model.extract_feat(torch.randn(1, 3, 28, 42))
    torch.testing.assert_close(late, tokens_of_patches(tokens[2], (2, 3), ""))
    torch.testing.assert_close(early, tokens_of_patches(tokens[0], (2, 3), ""))


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "swin_tiny_patch4_window7_224"])
def test_stages_of_timms_other_families_are_maps(tmp_path, name):
    from safetensors.torch import save_file

    small = dict(
        convnext_atto=dict(dims=[8, 8, 16, 16], depths=[1, 1, 1, 1]),
        resnet18={},
        swin_tiny_patch4_window7_224=dict(embed_dim=8, depths=(1, 1), num_heads=(1, 1), window_size=4),
    )[name]
    net = timm_net(name, num_classes=0, **small)
    save_file(net.state_dict(), str(tmp_path / "net.safetensors"))
    model = dict(type="timm", name=name, **small)
    spec = dict(type="FeatureTeacher", model=model, layers=[1], checkpoint=str(tmp_path / "net.safetensors"))
    (features,) = teacher_of(spec).model.extract_feat(torch.randn(1, 3, 96, 128))
    stride = dict(convnext_atto=8, resnet18=4, swin_tiny_patch4_window7_224=8)[name]
    assert features.shape[-2:] == (96 // stride, 128 // stride)
    assert features.shape[1] == net.feature_info[1]["num_chs"]


SWIN = dict(
    model_type="swin",
    embed_dim=12,
    depths=[2, 2, 2, 2],
    num_heads=[1, 2, 3, 3],
    image_size=224,
    window_size=7,
)


def saved(folder, layers, **config):
    """A teacher of random weights that transformers wrote to a folder."""
    library = transformers()
    library.AutoModel.from_config(library.AutoConfig.for_model(**config)).save_pretrained(folder)
    model = dict(type="transformers", name=str(folder), pretrained=True)
    return teacher_of(dict(type="FeatureTeacher", model=model, layers=layers, **NORMALISED)).model


def test_swin_of_transformers_teaches_and_a_small_image_leaves_it_as_it_is(tmp_path):
    """transformers narrows its windows to a small image, for good."""
    model = saved(tmp_path, [2], **SWIN)
    large, small = torch.randn(1, 3, 448, 448), torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        (before,), _, (after,) = (model.extract_feat(images) for images in (large, small, large))
    assert torch.equal(before, after)


@pytest.mark.parametrize("kind", ["pvt_v2", "segformer"])
def test_stages_are_numbered_alike_where_the_image_is_no_hidden_state(kind, tmp_path):
    sizes = dict(hidden_sizes=[8, 16, 32, 64], depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 2, 4])
    maps = saved(tmp_path, [0, 3], model_type=kind, **sizes).extract_feat(torch.randn(1, 3, 256, 320))
    assert [tuple(one.shape[1:]) for one in maps] == [(8, 64, 80), (64, 8, 10)]


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_maps_of_transformers_are_its_last_hidden_state(tmp_path, name):
    net = transformers_net(name)
    net.save_pretrained(tmp_path)
    patch = TRANSFORMERS[name]["patch_size"]
    model = dict(type="transformers", name=str(tmp_path), pretrained=True)
    teacher = teacher_of(dict(type="FeatureTeacher", model=model, layers=[0, -1], **NORMALISED))
    images = torch.randn(2, 3, 4 * patch, 6 * patch)
    more = dict(interpolate_pos_encoding=True) if name == "SigLIP" else {}
    with torch.no_grad():
        early, last = teacher.model.extract_feat(images)
        tokens = net(pixel_values=images, **more).last_hidden_state[:, -24:]
    torch.testing.assert_close(last, tokens.transpose(1, 2).reshape(2, 32, 4, 6))
    assert early.shape == last.shape
    assert not torch.allclose(early, last)


def test_stages_of_transformers_convnext_are_maps(tmp_path):
    library = transformers()
    config = dict(model_type="convnext", hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    net = library.AutoModel.from_config(library.AutoConfig.for_model(**config))
    net.save_pretrained(tmp_path)
    model = dict(type="transformers", name=str(tmp_path), pretrained=True)
    teacher = teacher_of(dict(type="FeatureTeacher", model=model, layers=[1, 2, 3], **NORMALISED))
    shapes = [tuple(each.shape) for each in teacher.model.extract_feat(torch.randn(1, 3, 96, 128))]
    assert shapes == [(1, 8, 12, 16), (1, 16, 6, 8), (1, 16, 3, 4)]


def test_vision_tower_of_a_model_of_images_and_texts_teaches(tmp_path):
    library = transformers()
    text = dict(SMALL, vocab_size=32, bos_token_id=0, eos_token_id=1, pad_token_id=2)
    vision = dict(SMALL, patch_size=16, image_size=64)
    both = library.AutoModel.from_config(
        library.AutoConfig.for_model("siglip", vision_config=vision, text_config=text)
    )
    randomise(both).save_pretrained(tmp_path)
    model = dict(type="transformers", name=str(tmp_path), pretrained=True)
    teacher = teacher_of(dict(type="FeatureTeacher", model=model, **NORMALISED))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        (last,) = teacher.model.extract_feat(images)
        tokens = both.vision_model(pixel_values=images).last_hidden_state
    torch.testing.assert_close(last, tokens.transpose(1, 2).reshape(1, 32, 4, 4))


# -- Normalisation --------------------------------------------------------------------------------------------------

COCO = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True)
CAFFE = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], bgr_to_rgb=False)


@pytest.mark.parametrize("student", [COCO, CAFFE], ids=["RGB", "BGR"])
def test_images_are_normalised_as_transformers_own_processor_does(tmp_path, student):
    library = transformers()
    transformers_net("SigLIP").save_pretrained(tmp_path)
    mean, std = [0.5, 0.4, 0.3], [0.5, 0.25, 0.2]
    processor = dict(
        image_processor_type="SiglipImageProcessor", do_resize=False, image_mean=mean, image_std=std
    )
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = dict(type="transformers", name=str(tmp_path), pretrained=True)
    teacher = teacher_of(dict(type="FeatureTeacher", model=model), **student)
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)  # RGB
    expected = library.AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt").pixel_values
    config = small_paa()
    config.data_preprocessor.update(student)
    bgr = torch.from_numpy(image[..., ::-1].copy()).permute(2, 0, 1)
    sample = DetDataSample(metainfo=dict(img_shape=(64, 96)))
    data = MODELS.build(config).data_preprocessor(dict(inputs=[bgr], data_samples=[sample]), False)
    shown = teacher.renormalisation(data["inputs"], data["data_samples"])
    torch.testing.assert_close(shown, expected, atol=2e-5, rtol=1e-5)


def test_normalisation_of_timm_is_its_pretrained_configs(tmp_path):
    path, model, net = timm_file(tmp_path, "SigLIP")
    teacher = teacher_of(dict(type="FeatureTeacher", model=model, checkpoint=path))
    assert teacher.model.data_preprocessor.mean.flatten().tolist() == [127.5] * 3
    assert teacher.model.data_preprocessor.std.flatten().tolist() == [127.5] * 3
    assert net.pretrained_cfg["mean"] == (0.5, 0.5, 0.5)


def test_module_that_does_not_tell_its_normalisation_is_asked_for_it(resnet):
    with pytest.raises(
        ConfigError, match=r"ResNet does not tell how its images are normalised: give mean and std"
    ):
        teacher_of({key: value for key, value in resnet.items() if key not in NORMALISED})


# -- Weights --------------------------------------------------------------------------------------------------------


def test_weights_are_the_files_key_by_key(spec):
    from safetensors.torch import load_file, save_file

    saved = load_file(spec["checkpoint"])
    state = teacher_of(spec).model.backbone.net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in saved.items())
    assert state.keys() == saved.keys()
    save_file({key: value for key, value in saved.items() if key != "norm.bias"}, spec["checkpoint"])
    with pytest.raises(CheckpointError, match=r"1 keys are missing \(norm.bias\)"):
        teacher_of(spec)
    save_file(dict(saved, more=torch.zeros(1)), spec["checkpoint"])
    with pytest.raises(CheckpointError, match=r"1 are unknown \(more\)"):
        teacher_of(spec)
    save_file(dict(saved, **{"norm.bias": torch.zeros(5)}), spec["checkpoint"])
    with pytest.raises(CheckpointError, match=r"norm.bias \(5,\) for \(32,\)"):
        teacher_of(spec)


def test_classifier_and_a_prefix_are_passed_over(tmp_path):
    small = dict(name="convnext_atto", dims=[8, 8, 16, 16], depths=[1, 1, 1, 1])
    whole = timm_net(**small, num_classes=7)
    torch.save(
        dict(model={f"backbone.{key}": value for key, value in whole.state_dict().items()}),
        tmp_path / "a.pth",
    )
    spec = dict(type="FeatureTeacher", model=dict(type="timm", **small), checkpoint=str(tmp_path / "a.pth"))
    state = teacher_of(spec).model.backbone.net.state_dict()
    assert torch.equal(state["stem.0.weight"], whole.state_dict()["stem.0.weight"])


def test_file_of_transformers_is_verified(tmp_path):
    from safetensors.torch import save_file

    net = transformers_net("DINOv2")
    model = dict(type="transformers", config=TRANSFORMERS["DINOv2"])
    spec = dict(type="FeatureTeacher", model=model, checkpoint=str(tmp_path / "a.safetensors"), **NORMALISED)
    save_file(net.state_dict(), spec["checkpoint"])
    state = teacher_of(spec).model.backbone.net.state_dict()
    assert all(torch.equal(state[key], value) for key, value in net.state_dict().items())
    broken = dict(net.state_dict(), more=torch.zeros(1))
    broken.pop("layernorm.bias")
    save_file(broken, spec["checkpoint"])
    with pytest.raises(
        CheckpointError, match=r"1 keys are missing \(layernorm.bias\) and 1 keys are unknown \(more\)"
    ):
        teacher_of(spec)
    save_file(dict(net.state_dict(), **{"layernorm.bias": torch.zeros(3)}), spec["checkpoint"])
    with pytest.raises(CheckpointError, match=r"1 keys are of another shape \(layernorm.bias\)"):
        teacher_of(spec)


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_garbage_and_absent_files_are_one_line(resnet, tmp_path, ending):
    if ending == "safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"garbage.{ending}"
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        teacher_of(dict(resnet, checkpoint=str(path)))
    path.write_bytes(b"<html>404</html>")
    with pytest.raises(CheckpointError) as caught:
        teacher_of(dict(resnet, checkpoint=str(path)))
    assert f"garbage.{ending}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_malicious_file_is_refused_and_runs_nothing(resnet, tmp_path):
    target = tmp_path / "written"
    torch.save(dict(state_dict={}, meta=Malicious(target)), tmp_path / "bad.pth")
    with pytest.raises(CheckpointError, match=r"refused: it names posix\.system"):
        teacher_of(dict(resnet, checkpoint=str(tmp_path / "bad.pth")))
    assert not target.exists()


def test_random_weights_do_not_teach(resnet):
    del resnet["checkpoint"]
    with pytest.raises(ConfigError, match=r"teacher needs a checkpoint.*or pretrained=True in its model"):
        teacher_of(resnet)


def test_absent_package_is_named_with_the_extra(monkeypatch, resnet):
    own = importlib.import_module

    def without_timm(name, *args):
        if name.startswith("timm"):
            raise ModuleNotFoundError("No module named 'timm'")
        return own(name, *args)

    monkeypatch.setattr(importlib, "import_module", without_timm)
    spec = dict(resnet, model=dict(type="timm", name="resnet18"))
    with pytest.raises(
        MissingPackageError, match=r"timm is needed for this teacher: pip install .*\[foundation\]"
    ):
        teacher_of(spec)


def test_models_for_images_of_one_size_are_refused(tmp_path):
    from safetensors.torch import save_file

    small = dict(name="hiera_tiny_224", embed_dim=8, stages=(1, 1, 1, 1), num_heads=1)
    save_file(timm_net(**small, num_classes=0).state_dict(), str(tmp_path / "net.safetensors"))
    spec = dict(
        type="FeatureTeacher",
        model=dict(type="timm", **small),
        checkpoint=str(tmp_path / "net.safetensors"),
    )
    with pytest.raises(UnsupportedError, match="images of 256 x 320 pixels cannot be shown to it") as caught:
        teacher_of(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("layers", ["last", [], [0.5], True])
def test_layers_are_numbers(resnet, layers):
    with pytest.raises(ConfigError, match="layers must be numbers of layers"):
        teacher_of(dict(resnet, layers=layers))


def test_unknown_models_are_refused_with_the_nearest(tmp_path, resnet):
    timm()
    with pytest.raises(ConfigError, match=r"timm has no model 'vit_small_patch14_dinov'; nearest: vit_small"):
        teacher_of(dict(resnet, model=dict(type="timm", name="vit_small_patch14_dinov")))
    transformers()
    with pytest.raises(ConfigError, match=r"no model_type 'dinov4'"):
        teacher_of(dict(resnet, model=dict(type="transformers", config=dict(model_type="dinov4"))))
    with pytest.raises(
        ConfigError, match=r"FeatureTeacher: model: .* missing 1 required positional argument: 'name'"
    ):
        teacher_of(dict(resnet, model=dict(type="timm")))
    with pytest.raises(ConfigError, match=r"there is no 12"):
        teacher_of(dict(resnet, model=dict(type="transformers", config=TRANSFORMERS["SigLIP"]), layers=12))


# -- In a training --------------------------------------------------------------------------------------------------


def test_teacher_is_frozen_and_in_no_list_of_the_detector(resnet):
    model = distilled(resnet)
    own = {id(parameter) for parameter in model.parameters()}
    teacher = model.teachers["teacher"].model
    assert not own & {id(parameter) for parameter in teacher.parameters()}
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not any("net." in key for key in model.state_dict())
    before = copy.deepcopy(teacher.state_dict())
    sum(
        sum(value) if isinstance(value, list) else value for value in model.loss(*make_batch()).values()
    ).backward()
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    model.double()
    assert next(teacher.parameters()).dtype == torch.float64
    twin = copy.deepcopy(model).float()  # as EMA does
    assert twin.teachers["teacher"].model is teacher
    assert next(teacher.parameters()).dtype == torch.float64


def test_loss_is_that_of_the_maps_by_hand(resnet):
    method = dict(
        type="FeatureDistillation",
        student="neck[1]",
        teacher="backbone[0]",
        loss=dict(type="HintLoss"),
        loss_weight=3.0,
    )
    model = distilled(resnet, method)
    inputs, samples = make_batch(size=(96, 128))
    loss = model.loss(inputs, samples)["loss_hint"]
    with torch.no_grad():
        hint = model.teachers["teacher"].model.extract_feat(inputs)[0]  # the student normalises alike
        own = model.bound["FeatureDistillation"].method.connectors[0](model.student.extract_feat(inputs)[1])
        assert hint.shape[-2:] == (12, 16)
        own = torch.nn.functional.interpolate(own, (12, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(loss.detach(), 3 * (own - hint).square().mean())


def test_teacher_runs_once_for_several_methods_and_does_not_touch_the_students_weights(resnet):
    hint = dict(type="HintDistillation", student="neck[0]", teacher="backbone[0]")
    similar = dict(type="SimilarityPreservingDistillation", student="neck[0]", teacher="backbone[1]")
    model = distilled(resnet, hint, similar)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        alone = MODELS.build(small_paa()).state_dict()
    assert all(torch.equal(value, alone[key]) for key, value in model.student.state_dict().items())
    calls = []
    model.teachers["teacher"].model.backbone.register_forward_hook(lambda *_: calls.append(1))
    losses = model.loss(*make_batch())
    assert {"loss_hint", "loss_similarity"} <= losses.keys()
    assert len(calls) == 1


@pytest.mark.parametrize("option", ["channels_last", "bfloat16", "inference_mode"])
def test_speed_options_change_rounding_alone(spec, option):
    plain, fast = distilled(spec), distilled(dict(spec, speed={option: True}))
    batch = make_batch()
    expected, losses = (model.loss(*copy.deepcopy(batch))["loss_hint"] for model in (plain, fast))
    torch.testing.assert_close(losses, expected, rtol=0.05 if option == "bfloat16" else 1e-4, atol=0)
    losses.backward()


@pytest.mark.slow
def test_compiled_teacher_gives_the_same(resnet):
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None:
        pytest.skip("this PyTorch cannot be told to run compiled modules eagerly")
    with stance("force_eager"):
        expected = distilled(resnet).loss(*make_batch())["loss_hint"]
        losses = distilled(dict(resnet, speed=dict(compile=True))).loss(*make_batch())["loss_hint"]
    torch.testing.assert_close(losses, expected)


def test_mixed_precision_trains(spec):
    model = distilled(spec)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model.loss(*make_batch())
    losses["loss_hint"].backward()
    gradients = [p.grad for p in model.student.backbone.parameters() if p.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_report_names_the_maps_and_the_connectors(resnet):
    text = describe(distilled(resnet))
    assert "teacher FeatureTeacher" in text
    assert "backbone[1]" in text
    assert "ConvConnector 32 -> 64" in text
    assert "loss_hint" in text


def test_profile_has_a_row_for_it(resnet):
    model = dict(
        type="DistillationDetector",
        student=small_paa(),
        teacher=resnet,
        methods=[dict(type="HintDistillation", student="neck[0]", teacher="backbone[0]")],
    )
    report = profile_config(
        Config(dict(model=model)), shape=(64, 96), batch_size=2, objects=3, device="cpu", steps=0
    )
    assert report.networks["teacher"].detector == "FeatureTeacher"
    assert report.networks["teacher"].macs > 0
    assert report.networks["teacher"].trainable == 0


def test_what_it_cannot_give_is_refused_by_name(resnet):
    with pytest.raises(
        UnsupportedError,
        match=r"LabelAssignmentDistillation reads what its heads predict, and teacher 'teacher' \(FeatureTeacher\) "
        r"gives feature maps only: FeatureDistillation",
    ):
        distilled(resnet, dict(type="LabelAssignmentDistillation"))
    with pytest.raises(UnsupportedError, match=r"has backbone and no 'neck': set teacher='backbone'"):
        distilled(resnet, dict(type="FeatureDistillation"))
    with pytest.raises(ConfigError, match=r"initialise_from_teacher: FeatureTeacher is no detector"):
        distilled(resnet, initialise_from_teacher="backbone")
    with pytest.raises(ConfigError, match=r"leave out fuse"):
        teacher_of(dict(resnet, speed=dict(fuse=True)))


def test_backbone_and_neck_of_a_pretraining_teach_their_maps(tmp_path):
    config = small_paa()
    shell = dict(
        type="BackboneAndNeck",
        backbone=config.backbone,
        neck=config.neck,
        data_preprocessor=config.data_preprocessor,
    )
    net = randomise(MODELS.build(copy.deepcopy(shell)))
    torch.save(dict(state_dict=net.state_dict()), tmp_path / "pretrained.pth")
    spec = dict(shell, checkpoint=str(tmp_path / "pretrained.pth"))
    losses = distilled(spec, dict(type="FeatureDistillation", loss=dict(type="PKDLoss"))).loss(*make_batch())
    assert losses["loss_pkd"] > 0
    with pytest.raises(UnsupportedError, match=r"\(BackboneAndNeck\) gives feature maps only"):
        distilled(spec, dict(type="SoftLabelDistillation"))
