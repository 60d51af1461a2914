# The smaller detector on blood cells, alone: quarter-width ResNet-18.
_base_ = "paa_r18_fpn_bccd.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[16, 32, 64, 128]))
