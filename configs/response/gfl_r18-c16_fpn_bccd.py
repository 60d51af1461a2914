# The student for blood cells alone: quarter-width ResNet-18, trained from scratch.
_base_ = "gfl_r18_fpn_bccd.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
