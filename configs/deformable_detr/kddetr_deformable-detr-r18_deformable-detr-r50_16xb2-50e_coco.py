# KD-DETR, a ResNet-50 teaches a ResNet-18 (arXiv 2211.08071). Not trained here.
_base_ = "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student=dict(
        config="mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
        backbone=dict(depth=18, init_cfg=dict(checkpoint="torchvision://resnet18")),
        neck=dict(in_channels=[128, 256, 512]),
    ),
    teacher=dict(
        config="mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v3.0/deformable_detr/"
        "deformable-detr_r50_16xb2-50e_coco/deformable-detr_r50_16xb2-50e_coco_20221029_210934-6bc7d21b.pth",
    ),
    methods=[dict(type="SharedQueryDistillation", num_random=300)],
)
