# Chen et al., NIPS 2017, complete: a ResNet-50 teaches a ResNet-18.
_base_ = "faster-rcnn_r18_fpn_1x_coco.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/faster-rcnn_r18_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/faster_rcnn/faster_rcnn_r50_fpn_1x_coco/"
        "faster_rcnn_r50_fpn_1x_coco_20200130-047c8118.pth",
    ),
    methods=[dict(type="HintDistillation"), dict(type="RPNDistillation"), dict(type="RCNNDistillation")],
)
