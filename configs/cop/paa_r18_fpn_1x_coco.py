# The baseline of the ResNet-18 rows: PAA itself.
_base_ = ["mmdet::paa/paa_r50_fpn_1x_coco.py", "../_base_/tta/soft_vote_coco.py"]
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    backbone=dict(depth=18, init_cfg=dict(checkpoint="torchvision://resnet18")),
    neck=dict(in_channels=[64, 128, 256, 512]),
    bbox_head=dict(type="BatchedPAAHead"),
)
