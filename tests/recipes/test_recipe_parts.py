"""The parts of a written config: methods, numbers of classes, Python text."""

from lad.base.config import detector_config, load_config
from lad.errors import ConfigError
from lad.recipes.choice import RECIPES, family, recipes_for
from lad.recipes.classes import with_classes
from lad.recipes.text import WIDTH, assignment, python

import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st
from mmdet.registry import MODELS

CONFIGS = {
    "PAA": "mmdet::paa/paa_r50_fpn_1x_coco.py",
    "TOOD": "mmdet::tood/tood_r50_fpn_1x_coco.py",
    "RTMDet": "mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py",
    "YOLOX": "mmdet::yolox/yolox_s_8xb8-300e_coco.py",
    "GFL": "mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    "RetinaNet": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "FCOS": "mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py",
    "ATSS": "mmdet::atss/atss_r50_fpn_1x_coco.py",
    "DDOD": "mmdet::ddod/ddod_r50_fpn_1x_coco.py",
    "two-stage": "mmdet::cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco.py",
    "DINOHead": "mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
}


@pytest.mark.parametrize("name", CONFIGS)
def test_a_detectors_family_is_that_of_its_head_and_all_its_heads_get_the_classes(name):
    model = load_config(CONFIGS[name]).model
    assert family(model) == name
    changes = with_classes(model, 7)
    new = detector_config(dict(config=CONFIGS[name], **changes), "student")
    assert with_classes(new, 7) == {}
    assert not with_classes(model, 80)


def test_the_heads_of_a_cascade_are_given_whole_and_build():
    path = CONFIGS["two-stage"]
    changes = with_classes(load_config(path).model, 3)
    heads = changes["roi_head"]["bbox_head"]
    assert [head["num_classes"] for head in heads] == [3, 3, 3]
    assert [head["bbox_coder"]["target_stds"][0] for head in heads] == [0.1, 0.05, 0.033]
    model = detector_config(dict(config=path, **changes), "student")
    model.backbone.init_cfg = None
    built = MODELS.build(model)
    assert [head.fc_cls.out_features for head in built.roi_head.bbox_head] == [4, 4, 4]


@pytest.mark.parametrize(
    ("student", "teacher", "names"),
    [
        ("PAA", "PAA", ["lad", "pkd"]),
        ("TOOD", "TOOD", ["lad-soft", "pkd"]),
        ("RetinaNet", "RetinaNet", ["crosskd", "pkd"]),
        ("GFL", "GFL", ["ld", "pkd"]),
        ("two-stage", "two-stage", ["frcnn", "pkd"]),
        ("RetinaNet", "FCOS", ["pkd"]),
        ("DINOHead", "DINOHead", ["pkd"]),
    ],
)
def test_methods_are_those_of_the_documented_table(student, teacher, names):
    models = [load_config(CONFIGS[name]).model for name in (student, teacher)]
    assert [recipe.name for recipe in recipes_for(*models)] == names


def test_every_first_choice_is_in_the_documented_table():
    table = (ROOT / "docs/getting_started.md").read_text().split("## 2. Choose a method")[1].split("## 3.")[0]
    for recipe in RECIPES.values():
        assert all(f"`{method['type']}`" in table for method in recipe.methods), recipe.name


def test_a_method_can_be_named_and_an_unknown_one_is_refused():
    model = load_config(CONFIGS["PAA"]).model
    assert [recipe.name for recipe in recipes_for(model, model, "fgd")] == ["fgd"]
    with pytest.raises(ConfigError, match="there is no 'crossdk'; nearest: crosskd"):
        recipes_for(model, model, "crossdk")


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(
            st.sampled_from(["type", "a", "long_name_of_a_setting", "two words", "in.dots"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(values)
def test_text_is_the_value_again(value):
    scope = {}
    exec(assignment("x", value), scope)
    assert scope["x"] == value
    assert type(scope["x"]) is type(value)


def test_long_values_are_broken_into_lines():
    text = python(dict(pipeline=[dict(type="Resize", scale=(1333, 800), keep_ratio=True) for _ in range(3)]))
    assert max(map(len, text.splitlines())) <= WIDTH
    assert text.splitlines()[0] == "dict("
    assert python(dict(a=1, b="x")) == 'dict(a=1, b="x")'
