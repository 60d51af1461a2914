# A DINO teaches a Deformable-DETR by matched predictions (after DETRDistill, arXiv 2211.10156). Not trained here.
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
        config="mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v3.0/dino/dino-4scale_r50_8xb2-12e_coco/"
        "dino-4scale_r50_8xb2-12e_coco_20221202_182705-55b2bba2.pth",
    ),
    methods=[dict(type="MatchedQueryDistillation")],
)
