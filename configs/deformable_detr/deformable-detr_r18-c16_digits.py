# The digits' student alone: quarter-width ResNet-18.
_base_ = "deformable-detr_r18-c32_digits.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[32, 64, 128]))
