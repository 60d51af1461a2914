"""Training steps on a GPU: what they compute is the CPU's, and nothing but the documented waits for the device."""

import copy
import os

import pytest
import torch
from helpers import at, make_batch
from method_table import MODELS_OF, distil, everything_on, joint_on, learn_together
from seam_detectors import set_epoch
from two_stage_detectors import with_masks
from waits import recorded_waits

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]

#: Sums over many priors in another order, and cuDNN's convolutions.
TOLERANCE = dict(rtol=2e-3, atol=2e-4)
#: Methods that draw random numbers differ between devices: MGD's masks.
RANDOM = ("mgd",)


@pytest.fixture(autouse=True)
def _exact_convolutions():
    """TF32 has three digits."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


@pytest.fixture
def batch():
    inputs, samples = make_batch((2, 3), (96, 128))
    with_masks(samples)
    return inputs, samples


def on(device, batch):
    inputs, samples = copy.deepcopy(batch)
    return inputs.to(device), [sample.to(device) for sample in samples]


def losses_of(model, batch):
    torch.manual_seed(0)
    return model.loss(*batch)


def total(losses):
    return sum(sum(v) if isinstance(v, list) else v for name, v in losses.items() if "loss" in name)


def make(detector, method, folder):
    torch.manual_seed(0)
    set_epoch(100)  # TOOD's own assigner
    model = everything_on(detector, folder) if method is None else learn_together(detector, method)
    at(model, 10**9)
    return model.train()


CASES = [
    pytest.param(detector, method, id=f"{detector}-{method or 'all'}")
    for detector in MODELS_OF
    for method in (None, *joint_on(detector))
]


@pytest.mark.parametrize(("detector", "method"), CASES)
def test_losses_are_the_cpus_and_only_documented_waits_are_made(detector, method, batch, tmp_path):
    model = make(detector, method, tmp_path)
    wanted = {
        name: total({name: v}) for name, v in losses_of(model, on("cpu", batch)).items() if "loss" in name
    }
    model = make(detector, method, tmp_path).cuda()
    own = on("cuda", batch)
    total(losses_of(model, own)).backward()  # what is allocated and chosen in the first step
    model.zero_grad()
    with recorded_waits() as waits:
        losses = losses_of(model, own)
        total(losses).backward()
    assert [wait for wait in sorted(waits) if not wait.is_documented] == []
    # RoI heads sample at random.
    if detector not in ("Faster", "Cascade", "Mask"):
        for name, value in wanted.items():
            if not any(part in name.lower() for part in RANDOM):
                torch.testing.assert_close(
                    total({name: losses[name]}).cpu(),
                    value,
                    msg=lambda text, name=name: f"{name}: {text}",
                    **TOLERANCE,
                )


@pytest.mark.parametrize(("detector", "method"), CASES)
def test_half_precision_with_loss_scaling_trains(detector, method, batch, tmp_path):
    model = make(detector, method, tmp_path).cuda()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)
    before = [p.detach().clone() for p in model.parameters() if p.requires_grad]
    for _ in range(6):  # a scale that is too large is halved and its step left out
        with torch.autocast("cuda", torch.float16):
            loss = total(model.loss(*on("cuda", batch)))
        assert loss.isfinite()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    after = [p for p in model.parameters() if p.requires_grad]
    assert all(p.isfinite().all() for p in after)
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    "speed", [dict(channels_last=True), dict(compile=True), dict(fuse=True, channels_last=True)]
)
def test_a_faster_teacher_gives_the_same_losses(speed, batch, tmp_path):
    methods = [
        dict(type="FeatureDistillation", loss=dict(type="PKDLoss")),
        dict(type="SoftLabelDistillation"),
    ]
    values = []
    for options in ({}, speed):
        torch.manual_seed(0)
        model = distil("PAA", methods, tmp_path, speed=options)
        at(model, 10**9)
        values.append(total(losses_of(model.train().cuda(), on("cuda", batch))))
    torch.testing.assert_close(values[1], values[0], **TOLERANCE)


def test_memory_is_flat_over_many_steps(batch, tmp_path):
    model = make("PAA", None, tmp_path).cuda()
    own = on("cuda", batch)

    def steps(number):
        for _ in range(number):
            model.zero_grad()
            total(model.loss(*copy.deepcopy(own))).backward()
        return torch.cuda.memory_allocated()

    first = steps(50)
    assert steps(450) <= first * 1.01


def test_a_process_group_of_one_trains_and_is_left(batch, tmp_path):
    from lad.engine.leaving import leaving_process_group

    from torch import distributed
    from torch.nn.parallel import DistributedDataParallel

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29541", RANK="0", WORLD_SIZE="1")
    distributed.init_process_group("nccl")
    with leaving_process_group():
        model = make("PAA", None, tmp_path).cuda()
        wrapped = DistributedDataParallel(model, device_ids=[0])
        total(losses_of(wrapped.module, on("cuda", batch))).backward()
        del model, wrapped
    assert not distributed.is_initialized()
