# The student for the demo's digits alone: quarter-width ResNet-18, trained from scratch.
_base_ = "retinanet_r18-c32_fpn_digits.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
