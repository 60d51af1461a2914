# Stage 1: a teacher that sees the images as they come (instance sampling), a quarter-width ResNet-18.
_base_ = [
    "../_base_/models/retinanet_r18_fpn_small.py",
    "../_base_/datasets/digits_tail_detection.py",
    "../_base_/schedules/schedule_digits.py",
    "../_base_/small_runtime.py",
]
model = dict(
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128]),
    bbox_head=dict(num_classes=10),
)
