"""Damaged checkpoint files: one line, whatever is broken."""

import contextlib
import io
import pickle
import random
import zipfile

from lad.compat.safe_loading import load_safely
from lad.errors import CheckpointError

import pytest
import torch
from torch import nn


def training_checkpoint():
    """What MMEngine saves, in small: weights, the optimizer's state, plain data."""
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(3, 5)).square().sum().backward()
    optimizer.step()
    return dict(
        state_dict=model.state_dict(), optimizer=optimizer.state_dict(), meta=dict(epoch=1, cfg="a = 1\n")
    )


def saved(zipped: bool) -> bytes:
    file = io.BytesIO()
    torch.save(training_checkpoint(), file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def without_member(content: bytes, name: str) -> bytes:
    """An archive without one of its files."""
    shorter = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as whole, zipfile.ZipFile(shorter, "w") as archive:
        for info in whole.infolist():
            if not info.filename.endswith(name):
                archive.writestr(info, whole.read(info))
    return shorter.getvalue()


ZIPPED, LEGACY = saved(True), saved(False)
DAMAGED = {
    "empty": b"",
    "text": b"state_dict = 3\n" * 20,
    "json": b'{"state_dict": {}}',
    "html": b"<!DOCTYPE html><html><body>404</body></html>",
    "git_lfs_pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "truncated_zip": ZIPPED[: len(ZIPPED) // 2],
    "truncated_legacy": LEGACY[: len(LEGACY) // 2],
    "legacy_cut_in_its_head": LEGACY[:40],
    "zip_without_version": without_member(ZIPPED, "version"),
    "zip_without_pickle": without_member(ZIPPED, "data.pkl"),
    "zip_without_a_tensor": without_member(ZIPPED, "data/0"),
    "corrupt_text_in_pickle": LEGACY.replace(b"state_dict", b"st\xff\xfe_dict"),
    "plain_pickle": pickle.dumps(dict(state_dict={}), protocol=2),
}


def check_is_refused_in_one_line(content, path):
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        load_safely(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_file_is_refused_in_one_line(tmp_path, kind):
    check_is_refused_in_one_line(DAMAGED[kind], tmp_path / "a.pth")


@pytest.mark.parametrize("content", [ZIPPED, LEGACY], ids=["zip", "legacy"])
def test_file_cut_anywhere_is_refused_in_one_line(tmp_path, content):
    generator = random.Random(1)
    for length in generator.sample(range(len(content)), 100):
        check_is_refused_in_one_line(content[:length], tmp_path / "a.pth")


@pytest.mark.parametrize("content", [ZIPPED, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("bits", [1, 20])
def test_file_with_flipped_bits_is_read_or_refused(tmp_path, content, bits):
    generator = random.Random(bits)
    path = tmp_path / "a.pth"
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(bits):
            damaged[generator.randrange(len(damaged))] ^= 1 << generator.randrange(8)
        path.write_bytes(damaged)
        with contextlib.suppress(CheckpointError):
            load_safely(path)


@pytest.mark.parametrize("key", ["0.weight", "1.running_var"])
def test_flipped_bit_of_a_weight_is_refused(tmp_path, key):
    """torch does not compare checksums: it would be a silently wrong weight."""
    path = tmp_path / "a.pth"
    checkpoint = training_checkpoint()
    torch.save(checkpoint, path)
    content = bytearray(path.read_bytes())
    stored = checkpoint["state_dict"][key].numpy().tobytes()
    content[content.index(stored) + 2] ^= 1
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["state_dict"][key], checkpoint["state_dict"][key])
    with pytest.raises(CheckpointError, match="checksum"):
        load_safely(path)


def test_folder_is_told_apart_from_damage(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read: Is a directory"):
        load_safely(tmp_path)


def test_file_that_does_not_exist_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_safely(tmp_path / "none.pth")
