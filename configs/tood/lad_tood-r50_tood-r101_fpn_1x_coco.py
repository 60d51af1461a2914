# LAD on TOOD: a ResNet-101 teaches a ResNet-50.
_base_ = "mmdet::tood/tood_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::tood/tood_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::tood/tood_r101_fpn_ms-2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/tood/tood_r101_fpn_mstrain_2x_coco/"
        "tood_r101_fpn_mstrain_2x_coco_20211210_144232-a18f53c8.pth",
    ),
    # For TOOD "soft" is the mode to begin with: docs/results.md. (PAA takes "hard" alone.)
    methods=[dict(type="LabelAssignmentDistillation", mode="soft")],
)
