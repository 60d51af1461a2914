"""Texts that are matched, each compared with the real error of the installed package."""

import argparse
import io
import subprocess
import sys
import warnings
from importlib.util import find_spec

from lad.cli.messages import explain
from lad.compat.messages import (
    INTERNAL_WARNINGS,
    MMENGINE_NO_CHECKPOINT,
    NUMPY_NOTHING_TO_CONCATENATE,
    TORCH_BROKEN_FILE,
    TORCH_ONE_VALUE,
    TORCH_SHAPE_MISMATCH,
    TORCH_WRONG_HASH,
    UnregisteredType,
    expected_channels,
    refused_global,
    size_mismatch,
    unpickling_reason,
    unregistered_type,
    without_worker_traceback,
)
from lad.errors import DataError

import numpy as np
import pytest
import torch
from mmdet.datasets import CocoDataset
from mmdet.registry import MODELS, PARAM_SCHEDULERS
from mmengine.runner import load_checkpoint
from torch import nn
from torch.utils.data import DataLoader, Dataset

MAPS = torch.zeros(2, 3, 8, 8)


def saved(content, **options):
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def load(content):
    return torch.load(io.BytesIO(content), weights_only=True)


@pytest.mark.parametrize("zipped", [True, False])
def test_truncated_checkpoint(zipped):
    content = saved(dict(a=torch.zeros(1000)), _use_new_zipfile_serialization=zipped)
    with pytest.raises(RuntimeError) as caught:
        load(content[: len(content) // 2])
    assert TORCH_BROKEN_FILE.search(str(caught.value))


def test_checkpoint_on_an_absent_device_is_not_a_truncated_one():
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        torch.load(io.BytesIO(saved(torch.zeros(1))), map_location="cuda", weights_only=True)
    assert not TORCH_BROKEN_FILE.search(str(caught.value))


def test_global_that_torch_refuses():
    with pytest.raises(Exception, match="GLOBAL") as caught:
        load(saved(dict(a=argparse.Namespace)))
    assert refused_global(str(caught.value)) == "argparse.Namespace"


def test_other_reason_for_which_torch_refuses_a_file():
    with pytest.raises(Exception, match="WeightsUnpickler error") as caught:
        load(saved(dict(a=torch.zeros(1)))[:3])
    assert refused_global(str(caught.value)) is None
    assert unpickling_reason(str(caught.value)) == "Unsupported operand 80"


def test_reason_of_an_error_without_one_is_empty():
    assert unpickling_reason("") == ""


def test_download_of_another_file_than_its_hash_says(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    with pytest.raises(RuntimeError, match=TORCH_WRONG_HASH):
        torch.hub.download_url_to_file(
            (tmp_path / "a").as_uri(), str(tmp_path / "b"), "936edec3", progress=False
        )


@pytest.mark.parametrize(
    ("module", "given", "channels"),
    [
        (nn.Conv2d(4, 8, 3), MAPS, 4),
        (nn.Conv2d(8, 8, 3, groups=4), MAPS, 8),
        (nn.ConvTranspose2d(5, 8, 3), MAPS, 5),
        (nn.BatchNorm2d(4), MAPS, None),
        (nn.LayerNorm(4), MAPS, None),
        (nn.Linear(4, 8), torch.zeros(2, 3), None),
        (torch.zeros(2, 4).add, torch.zeros(2, 3), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_input_of_the_wrong_size(module, given, channels):
    with pytest.raises(RuntimeError) as caught:
        module(given)
    assert TORCH_SHAPE_MISMATCH.search(str(caught.value))
    assert expected_channels(str(caught.value)) == channels


def test_kernel_larger_than_the_map_is_not_a_wrong_size():
    with pytest.raises(RuntimeError) as caught:
        nn.Conv2d(3, 3, 9)(MAPS)
    assert not TORCH_SHAPE_MISMATCH.search(str(caught.value))


class Failing(Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise DataError(f"image {index} cannot be read")


def test_error_raised_in_a_worker_of_a_data_loader():
    with pytest.raises(DataError) as caught:
        next(iter(DataLoader(Failing(), num_workers=1)))
    assert "Traceback" in str(caught.value)
    assert without_worker_traceback(str(caught.value)) == "image 0 cannot be read"
    assert without_worker_traceback("Error: as it is") == "Error: as it is"


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(2), nn.GroupNorm(2, 2)])
def test_norm_of_one_value(norm):
    with pytest.raises(ValueError, match=TORCH_ONE_VALUE):
        norm(torch.zeros(1, 2, 1, 1))


def test_nothing_to_concatenate():
    with pytest.raises(ValueError, match=NUMPY_NOTHING_TO_CONCATENATE):
        np.concatenate([])


def test_data_set_without_images(tmp_path):
    (tmp_path / "a.json").write_text('{"images": [], "annotations": [], "categories": []}')
    dataset = CocoDataset(ann_file=str(tmp_path / "a.json"), lazy_init=True)
    with pytest.raises(ValueError, match=NUMPY_NOTHING_TO_CONCATENATE):
        dataset.full_init()


def test_checkpoint_that_mmengine_does_not_find():
    with pytest.raises(FileNotFoundError, match=MMENGINE_NO_CHECKPOINT):
        load_checkpoint(nn.Linear(1, 1), "/nowhere/epoch_1.pth")


@pytest.mark.parametrize(
    ("registry", "expected"),
    [
        (MODELS, UnregisteredType("BatchPAAHead", "mmdet", "model")),
        (
            PARAM_SCHEDULERS,
            UnregisteredType("BatchPAAHead", "mmdet", "parameter scheduler"),
        ),
    ],
)
def test_type_that_nothing_is_registered_as(registry, expected):
    with pytest.raises(KeyError) as caught:
        registry.build(dict(type="BatchPAAHead"))
    assert unregistered_type(caught.value) == expected


def test_unregistered_type_is_explained_with_the_nearest_names():
    with pytest.raises(KeyError) as caught:
        MODELS.build(dict(type="BatchPAAHead"))
    assert explain(caught.value).startswith(
        "BatchPAAHead is not in the mmdet::model registry; nearest: BatchedPAAHead"
    )


@pytest.mark.parametrize("error", [KeyError("name"), KeyError(), KeyError(3)])
def test_other_key_errors_name_no_type(error):
    assert unregistered_type(error) is None


@pytest.mark.skipif(find_spec("pkg_resources") is None, reason="MMEngine's fork does without pkg_resources")
def test_warning_of_the_import_of_pkg_resources():
    """In a new process: it is given once, when the package is first imported."""
    code = "import warnings; warnings.simplefilter('always'); import pkg_resources"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"UserWarning: {INTERNAL_WARNINGS[0]}" in done.stderr


def test_warning_of_num_anchors():
    head = MODELS.build(dict(type="RetinaHead", num_classes=1, in_channels=8))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert head.num_anchors == 9
    assert [str(warning.message)[: len(INTERNAL_WARNINGS[1])] for warning in caught] == [INTERNAL_WARNINGS[1]]


@pytest.mark.parametrize(("saved", "own"), [((2, 3), (4, 3)), ((), (5,)), ((2, 3, 1, 1), (2,))])
def test_torch_names_key_and_shapes_of_what_does_not_fit(saved, own):
    model = nn.Module()
    model.register_buffer("deep", torch.zeros(own))
    with pytest.raises(RuntimeError) as caught:
        model.load_state_dict({"deep": torch.zeros(saved)})
    assert size_mismatch(str(caught.value)) == ("deep", (saved, own))
    assert size_mismatch("Missing key(s) in state_dict") is None
