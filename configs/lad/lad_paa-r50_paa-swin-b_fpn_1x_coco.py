# LAD, a Swin-B teaches a ResNet-50 (arXiv 2108.10520). Train the teacher first: none is published.
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
        config="{{ fileDirname }}/paa_swin-b-p4-w7_fpn_ms-3x_coco.py",
        checkpoint="work_dirs/paa_swin-b-p4-w7_fpn_ms-3x_coco/epoch_36.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation")],
)
