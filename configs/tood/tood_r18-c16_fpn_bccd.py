# Student on blood cells, alone: quarter-width ResNet-18.
_base_ = "tood_r18_fpn_bccd.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
