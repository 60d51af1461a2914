"""Remembering what a frozen teacher assigned."""

import copy
import os
import signal
import subprocess
import sys
import time
import tracemalloc

from lad.assignment.priors import prior_grid
from lad.errors import ConfigError, UnsupportedError
from lad.exchange.paa_memory import to_batch_index, to_image_index
from lad.networks import cache as teacher_cache
from lad.networks.cache import HEADER, TeacherCache, fingerprint, hash_of

import numpy as np
import pytest
import torch
from helpers import ROOT, build, make_batch, save_checkpoint, small_paa
from mmdet.models.task_modules import AnchorGenerator
from mmdet.registry import MODELS


def key(number: int) -> bytes:
    return number.to_bytes(16, "little")


# -- the store ---------------------------------------------------------------------------------------------------


def test_what_was_put_is_found_by_this_and_by_later_processes(tmp_path):
    cache = TeacherCache(tmp_path)
    assert cache.get(key(1)) is None
    cache.put(key(1), b"first")
    cache.put(key(2), b"")
    assert cache.get(key(1)) == b"first"
    assert cache.get(key(2)) == b""
    later = TeacherCache(tmp_path)
    assert later.get(key(1)) == b"first"
    assert later.get(key(2)) == b""
    assert later.get(key(3)) is None
    assert (later.statistics.hits, later.statistics.misses) == (2, 1)


def test_processes_that_run_at_once_share_what_they_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "REFRESH_SECONDS", 0.0)
    one, other = TeacherCache(tmp_path), TeacherCache(tmp_path)
    for number in range(50):
        (one if number % 2 else other).put(key(number), bytes([number]) * number)
    for number in range(50):
        assert one.get(key(number)) == other.get(key(number)) == bytes([number]) * number
    assert len(list(tmp_path.glob("*.bin"))) == 2


@pytest.mark.parametrize("lost", [1, 3, 20])
def test_torn_record_is_a_miss_and_hides_nothing_before_it(tmp_path, lost):
    cache = TeacherCache(tmp_path)
    for number in range(3):
        cache.put(key(number), b"x" * 10)
    file = next(tmp_path.glob("*.bin"))
    os.truncate(file, file.stat().st_size - lost)
    later = TeacherCache(tmp_path)
    assert [later.get(key(number)) for number in range(3)] == [b"x" * 10, b"x" * 10, None]
    later.put(key(2), b"again")
    assert TeacherCache(tmp_path).get(key(2)) == b"again"


def test_flipped_bit_is_a_miss(tmp_path):
    cache = TeacherCache(tmp_path)
    cache.put(key(7), b"payload")
    file = next(tmp_path.glob("*.bin"))
    content = bytearray(file.read_bytes())
    content[HEADER.size] ^= 1
    file.write_bytes(content)
    assert TeacherCache(tmp_path).get(key(7)) is None


def test_damaged_record_hides_none_behind_it(tmp_path):
    cache = TeacherCache(tmp_path)
    for number in range(3):
        cache.put(key(number), bytes([number]) * 10)
    file = next(tmp_path.glob("*.bin"))
    content = bytearray(file.read_bytes())
    content[HEADER.size + 10 + HEADER.size] ^= 1  # the second one's first byte
    file.write_bytes(content)
    later = TeacherCache(tmp_path)
    assert [later.get(key(number)) for number in range(3)] == [b"\0" * 10, None, b"\2" * 10]


def test_opening_a_cache_takes_the_memory_of_a_record(tmp_path):
    cache = TeacherCache(tmp_path)
    for number in range(40):
        cache.put(key(number), bytes(1_000_000))
    tracemalloc.start()
    try:
        assert TeacherCache(tmp_path).get(key(39)) is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 5_000_000


def test_file_that_ends_in_a_torn_record_is_scanned_again_only_when_it_grows(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache, "REFRESH_SECONDS", 0.0)
    cache = TeacherCache(tmp_path)
    cache.put(key(0), b"x" * 10)
    file = next(tmp_path.glob("*.bin"))
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:20])
    later, scans = TeacherCache(tmp_path), []
    scan = later._scan
    monkeypatch.setattr(later, "_scan", lambda path: (scans.append(path), scan(path)))
    for _ in range(3):
        assert later.get(key(1)) is None
    assert scans == [file]
    file.write_bytes(whole + HEADER.pack(b"LAD1", key(1), 1, teacher_cache._checksum(key(1), b"y")) + b"y")
    assert later.get(key(1)) == b"y"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(max_gb=0), "max_gb must be a positive number, got 0"),
        (dict(max_gb="lots"), "max_gb must be a positive number, got 'lots'"),
        (dict(patience="x"), "patience must be a number of look-ups, got 'x'"),
        (dict(report_every=0), "report_every must be a number of look-ups, got 0"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        TeacherCache(tmp_path, **options)


def test_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(
        ConfigError, match=r"the folder \S*file/teacher cannot be made \(Not a directory\); give another"
    ):
        TeacherCache(tmp_path / "file" / "teacher")


def test_killed_writers_leave_only_whole_records(tmp_path):
    """A writer is killed at ten moments; whatever can be read afterwards is right."""
    program = (
        "import sys; from lad.networks.cache import TeacherCache\n"
        f"cache = TeacherCache({str(tmp_path)!r}); print('ready', flush=True)\n"
        "for number in range(10**9):\n"
        "    cache.put(number.to_bytes(16, 'little'), number.to_bytes(4, 'little') * (number % 200))\n"
    )
    environment = dict(os.environ, PYTHONWARNINGS="ignore")
    writers = []
    for _ in range(2):
        command = [sys.executable, "-c", program]
        writers.append(subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment))
    for delay, writer in zip((0.05, 0.2), writers, strict=True):
        writer.stdout.readline()
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    cache = TeacherCache(tmp_path)
    found = 0
    for number in range(2000):
        payload = cache.get(key(number))
        if payload is not None:
            found += 1
            assert payload == number.to_bytes(4, "little") * (number % 200)
    assert found > 10


def test_size_is_bounded_and_a_full_cache_still_answers(tmp_path):
    cache = TeacherCache(tmp_path, max_gb=1e-6)  # 1,000 bytes
    for number in range(100):
        cache.put(key(number), b"x" * 100)
    assert cache.size() <= 1000
    assert cache.get(key(0)) == b"x" * 100
    assert cache.get(key(99)) is None


def test_cache_that_never_hits_turns_itself_off(tmp_path):
    cache = TeacherCache(tmp_path, patience=50)
    for epoch in range(3):
        for image in range(40):
            if cache.get(key(1000 * epoch + image), image_id=image) is None:
                cache.put(key(1000 * epoch + image), b"x")
    assert not cache.enabled
    size = cache.size()
    cache.put(key(5), b"x")
    assert cache.size() == size
    assert cache.get(key(0)) is None


def test_first_epoch_of_misses_does_not_turn_it_off(tmp_path):
    cache = TeacherCache(tmp_path, patience=50)
    for _ in range(3):
        for image in range(200):
            if cache.get(key(image), image_id=image) is None:
                cache.put(key(image), b"x")
    assert cache.enabled
    assert cache.statistics.hit_rate == pytest.approx(2 / 3)


# -- names -------------------------------------------------------------------------------------------------------


def test_fingerprint_tells_pixels_boxes_labels_and_shapes_apart():
    _, (sample, *_) = make_batch((2, 1))
    image = torch.randint(0, 256, (3, 40, 60), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    names = {
        fingerprint(image, sample),
        fingerprint(image.flip(2), sample),
        fingerprint(image.view(3, 60, 40), sample),
    }
    changed = image.clone()
    changed[2, 39, 59] ^= 1
    names.add(fingerprint(changed, sample))
    moved = copy.deepcopy(sample)
    moved.gt_instances.bboxes[1, 3] += 0.5
    names.add(fingerprint(image, moved))
    renamed = copy.deepcopy(sample)
    renamed.gt_instances.labels[0] += 1
    names.add(fingerprint(image, renamed))
    assert len(names) == 6
    assert fingerprint(image.clone(), copy.deepcopy(sample)) in names


def test_hash_tells_weights_and_settings_apart():
    model = build(small_paa())
    other = copy.deepcopy(model)
    assert hash_of(model, 1) == hash_of(other, 1) != hash_of(other, 2)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-6
    assert hash_of(model, 1) != hash_of(other, 1)


def test_anchor_numbers_survive_another_batch_size():
    generator = AnchorGenerator(strides=[8, 16], ratios=[1.0, 2.0], scales=[4])
    wide = prior_grid(generator, [(12, 20), (6, 10)], "cpu")
    tall = prior_grid(generator, [(16, 14), (8, 7)], "cpu")
    shape = (96, 96)  # 12 x 12 and 6 x 6 cells of the image itself
    inside = wide.inside([dict(pad_shape=shape)], -1)[0].nonzero()[:, 0].numpy()
    own = to_image_index(inside, wide, shape)
    assert sorted(own.tolist()) == list(range((144 + 36) * 2))
    back = to_batch_index(own.astype(np.uint32), wide, shape)
    np.testing.assert_array_equal(back, inside)
    moved = to_batch_index(own.astype(np.uint32), tall, shape)
    assert torch.equal(tall.anchors[torch.from_numpy(moved)], wide.anchors[torch.from_numpy(inside)])


# -- in a detector -----------------------------------------------------------------------------------------------


def distil(tmp_path, cache=True, seed=1, **more):
    teacher = small_paa(base=16)
    path = save_checkpoint(build(teacher, seed), tmp_path / f"teacher{seed}.pth")
    method = dict(type="LabelAssignmentDistillation")
    if cache:
        method["cache"] = dict(dir=str(tmp_path / "cache"), **more)
    model = MODELS.build(
        dict(
            type="DistillationDetector",
            student=small_paa(),
            teacher=dict(teacher, checkpoint=path),
            methods=[method],
        )
    )
    model.student.load_state_dict(build(small_paa()).state_dict())
    calls = []
    model.teacher.model.backbone.register_forward_hook(
        lambda module, args, output: calls.append(len(args[0]))
    )
    return model.train(), calls


def pixels(objects=(3, 0, 7), seed=0, shapes=None):
    """A batch as the data loader gives it."""
    inputs, samples = make_batch(objects, seed=seed, shapes=shapes)
    shapes = shapes or [tuple(inputs.shape[2:])] * len(objects)
    images = [
        (torch.rand(3, *shape, generator=torch.Generator().manual_seed(seed + i)) * 255).byte()
        for i, shape in enumerate(shapes)
    ]
    return dict(inputs=images, data_samples=samples)


def losses_of(model, data):
    prepared = model.data_preprocessor(copy.deepcopy(data), True)
    return {
        name: float(value) for name, value in model.loss(prepared["inputs"], prepared["data_samples"]).items()
    }


def test_remembered_losses_equal_computed_ones_and_the_teacher_does_not_run(tmp_path):
    plain, _ = distil(tmp_path, cache=False)
    model, calls = distil(tmp_path)
    data = pixels()
    expected = losses_of(plain, data)
    assert losses_of(model, data) == pytest.approx(expected, abs=1e-6)
    assert calls == [3]
    assert losses_of(model, data) == pytest.approx(expected, abs=1e-6)
    assert calls == [3]
    fresh, calls = distil(tmp_path)  # a new process would find the same
    assert losses_of(fresh, data) == pytest.approx(expected, abs=1e-6)
    assert calls == []


def test_teacher_runs_only_for_the_images_that_miss(tmp_path):
    plain, _ = distil(tmp_path, cache=False)
    model, calls = distil(tmp_path)
    losses_of(model, pixels((3, 2), seed=0))
    first, second = pixels((3, 2), seed=0), pixels((4, 1, 5), seed=50)
    mixed = {name: [second[name][0], first[name][1], second[name][2], first[name][0]] for name in first}
    assert losses_of(model, mixed) == pytest.approx(losses_of(plain, mixed), rel=1e-5)
    assert calls == [2, 2]
    assert losses_of(model, mixed) == pytest.approx(losses_of(plain, mixed), rel=1e-5)
    assert calls == [2, 2]


def test_image_remembered_in_one_batch_is_found_in_a_batch_of_another_size(tmp_path):
    model, calls = distil(tmp_path)
    small = pixels((3,), seed=0, shapes=[(64, 96)])
    small["inputs"].append(small["inputs"][0])
    small["data_samples"].append(small["data_samples"][0])
    losses_of(model, small)
    larger = pixels((2, 3), seed=9, shapes=[(96, 128), (96, 120)])
    batch = {name: [larger[name][0], small[name][0], larger[name][1]] for name in small}
    losses_of(model, batch)
    assert calls == [2, 2]


def test_same_padding_tells_batch_sizes_apart(tmp_path):
    model, calls = distil(tmp_path, same_padding=True)
    small = pixels((3, 2), seed=0, shapes=[(64, 96), (64, 96)])
    larger = pixels((2, 3), seed=9, shapes=[(96, 128), (96, 120)])
    losses_of(model, small)
    losses_of(model, small)
    losses_of(model, {name: [*small[name], *larger[name]] for name in small})
    assert calls == [2, 4]


def test_record_of_an_object_is_under_half_a_kilobyte(tmp_path):
    model, _ = distil(tmp_path)
    losses_of(model, pixels((40, 40, 40)))
    cache = model.methods[0].cache
    assert 0 < cache.size() < 120 * 500
    assert "0.0% of 3 look-ups hit, 3 images" in str(cache)


def test_another_teacher_or_setting_finds_nothing(tmp_path):
    model, _ = distil(tmp_path)
    losses_of(model, pixels())
    other, calls = distil(tmp_path, seed=2)
    losses_of(other, pixels())
    assert calls == [3]
    assert model.methods[0].cache.folder != other.methods[0].cache.folder


def test_random_pixels_turn_the_cache_off_and_training_goes_on(tmp_path):
    model, calls = distil(tmp_path, patience=6)
    for seed in range(5):
        losses_of(model, pixels((2, 1), seed=seed * 10))
    assert not model.methods[0].cache.enabled
    assert calls == [2] * 5


def test_wrappers_for_several_processes_hand_the_flag_over_by_keyword(tmp_path):
    model, calls = distil(tmp_path)
    for _ in range(2):
        prepared = model.data_preprocessor(pixels(), training=True)
        model.loss(prepared["inputs"], prepared["data_samples"])
    assert calls == [3]


def test_other_padding_divisor_and_batch_augments_are_told_apart_or_refused(tmp_path):
    def build_with(**preprocessor):
        student = small_paa()
        student.data_preprocessor.update(preprocessor)
        teacher = dict(
            small_paa(base=16), checkpoint=save_checkpoint(build(small_paa(base=16), 1), tmp_path / "t.pth")
        )
        method = dict(type="LabelAssignmentDistillation", cache=dict(dir=str(tmp_path / "cache")))
        return MODELS.build(
            dict(type="DistillationDetector", student=student, teacher=teacher, methods=[method])
        )

    folders = {build_with(pad_size_divisor=divisor).methods[0].cache.folder for divisor in (32, 64)}
    assert len(folders) == 2
    resize = dict(type="BatchSyncRandomResize", random_size_range=(64, 128), interval=1, size_divisor=32)
    with pytest.raises(UnsupportedError, match="batch_augments change images"):
        build_with(batch_augments=[resize])


def test_full_disk_and_cleaned_folder_end_in_misses(tmp_path, monkeypatch):
    cache = TeacherCache(tmp_path / "a")
    cache.put(key(1), b"one")

    class Short:
        def tell(self):
            return 0

        def write(self, record):
            return len(record) // 2

    cache._file = Short()
    cache.put(key(2), b"two")
    assert cache.get(key(2)) is None
    assert cache.get(key(1)) == b"one"
    cache.put(key(3), b"three")
    assert cache.get(key(3)) is None
    other = TeacherCache(tmp_path / "b")
    other.put(key(1), b"one")
    for file in (tmp_path / "b").glob("*.bin"):
        file.unlink()
    assert other.get(key(1)) is None


def test_images_without_fingerprint_are_computed_and_not_kept(tmp_path):
    model, calls = distil(tmp_path)
    model.loss(*make_batch())
    model.loss(*make_batch())
    assert calls == [3, 3]
    assert model.methods[0].cache.size() == 0


def test_evaluation_takes_no_fingerprints(tmp_path):
    model, _ = distil(tmp_path)
    prepared = model.data_preprocessor(pixels(), False)
    assert not any("lad_fingerprint" in sample.metainfo for sample in prepared["data_samples"])


def test_cache_needs_a_folder_and_the_batched_head(tmp_path):
    with pytest.raises(ConfigError, match=r"cache must be dict\(dir=FOLDER"):
        MODELS.build(dict(type="LabelAssignmentDistillation", cache=True))
    for wrong, message in (
        (dict(dir=5), r"cache must be dict\(dir=FOLDER"),
        (dict(dir="x", same_pading=True), "cache has no option 'same_pading'; nearest: same_padding"),
        (dict(dir="x", patience="x"), "patience must be a number of look-ups, got 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            MODELS.build(dict(type="LabelAssignmentDistillation", cache=wrong))
    path = save_checkpoint(build(small_paa(base=16)), tmp_path / "t.pth")
    with pytest.raises(
        UnsupportedError, match="PAAHead cannot replay cached decisions of a teacher: use BatchedPAAHead"
    ):
        MODELS.build(
            dict(
                type="DistillationDetector",
                student=small_paa("PAAHead"),
                teacher=dict(small_paa(base=16), checkpoint=path),
                methods=[dict(type="LabelAssignmentDistillation", cache=dict(dir=str(tmp_path)))],
            )
        )
