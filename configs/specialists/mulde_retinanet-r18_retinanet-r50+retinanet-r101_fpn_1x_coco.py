# Two teachers apart: a RetinaNet of ResNet-18 learns from ResNet-50 and ResNet-101, image by image more of the nearer
# one.
_base_ = "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r18_fpn_1x_coco.py",
    teachers=dict(
        r50=dict(
            config="mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
            checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r50_fpn_1x_coco/"
            "retinanet_r50_fpn_1x_coco_20200130-c2398f9e.pth",
        ),
        r101=dict(
            config="mmdet::retinanet/retinanet_r101_fpn_1x_coco.py",
            checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_1x_coco/"
            "retinanet_r101_fpn_1x_coco_20200130-7a93545f.pth",
        ),
    ),
    methods=[dict(type="MulDE")],
)
