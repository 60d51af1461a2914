# CrossKD, ATSS: a ResNet-101 teaches a ResNet-50.
_base_ = "mmdet::atss/atss_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::atss/atss_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::atss/atss_r101_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/atss/atss_r101_fpn_1x_coco/"
        "atss_r101_fpn_1x_20200825-dfcadd6f.pth",
    ),
    methods=[dict(type="CrossHeadDistillation")],
)
