# FitNets on a pyramid, a ResNet-101 teaches a ResNet-50.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::retinanet/retinanet_r101_fpn_2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/"
        "retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth",
    ),
    methods=[
        dict(type="FeatureDistillation", connector="projection", loss=dict(type="HintLoss", loss_weight=0.5))
    ],
)
