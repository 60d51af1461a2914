# The digits' teacher: half-width ResNet-18, trained from scratch.
# A smoke test: DETRs need far longer schedules than this one to detect well.
_base_ = [
    "../_base_/models/deformable-detr_r18_small.py",
    "../_base_/datasets/digits_detection.py",
    "../_base_/schedules/schedule_digits.py",
    "../_base_/small_runtime.py",
]
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[64, 128, 256]),
    bbox_head=dict(num_classes=10),
)
optim_wrapper = dict(clip_grad=dict(max_norm=0.1))
