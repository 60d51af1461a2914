# Student on blood cells, alone: a quarter of the width of its teacher's backbone.
_base_ = "dino_r18_bccd.py"
model = dict(backbone=dict(base_channels=16), neck=dict(in_channels=[32, 64, 128]))
