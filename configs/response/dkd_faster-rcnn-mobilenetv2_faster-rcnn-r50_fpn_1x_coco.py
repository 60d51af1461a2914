# Decoupled distillation, Faster R-CNN: a ResNet-50 teaches a MobileNetV2.
_base_ = "../faster_rcnn/faster-rcnn_mobilenetv2_fpn_1x_coco.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../faster_rcnn/faster-rcnn_mobilenetv2_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
        "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
    ),
    methods=[dict(type="RoILogitDistillation", loss=dict(type="DKDLoss"))],
)
