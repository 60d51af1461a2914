# LAD, a ResNet-101 teaches a ResNet-50 (arXiv 2108.10520).
_base_ = "mmdet::paa/paa_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        bbox_head=dict(type="BatchedPAAHead", box_loss_weight="uniform"),
    ),
    teacher=dict(
        config="mmdet::paa/paa_r101_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/paa/paa_r101_fpn_1x_coco/"
        "paa_r101_fpn_1x_coco_20200821-0a1825a4.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
