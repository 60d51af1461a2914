# The digits' teacher: half the width of the small one, trained from scratch.
_base_ = [
    "../_base_/models/rtmdet_small.py",
    "../_base_/datasets/digits_detection.py",
    "../_base_/schedules/schedule_digits.py",
    "../_base_/small_runtime.py",
]
model = dict(
    backbone=dict(widen_factor=0.25),
    neck=dict(in_channels=[64, 128, 256]),
    bbox_head=dict(num_classes=10),
)
