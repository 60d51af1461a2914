# The demo's teacher on 40 labelled images, trained from scratch.
_base_ = [
    "../_base_/models/paa_r18_fpn_small.py",
    "../_base_/datasets/digits_few_detection.py",
    "../_base_/schedules/schedule_digits.py",
    "../_base_/small_runtime.py",
]
model = dict(
    backbone=dict(base_channels=32),
    neck=dict(in_channels=[32, 64, 128, 256]),
    bbox_head=dict(num_classes=10),
)
