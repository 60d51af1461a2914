# CrossKD, GFL: a ResNet-101 teaches a ResNet-50. The authors' first recipe: edges by KL with a weight of 4, no boxes.
_base_ = "mmdet::gfl/gfl_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::gfl/gfl_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/"
        "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth",
    ),
    methods=[dict(type="CrossHeadDistillation")],
)
