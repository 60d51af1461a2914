# A Mask R-CNN-R101 teaches a Mask R-CNN-R50 its classes and its masks. Not trained here.
_base_ = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::mask_rcnn/mask-rcnn_r101_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/mask_rcnn/mask_rcnn_r101_fpn_1x_coco/"
        "mask_rcnn_r101_fpn_1x_coco_20200204-1efe0ed5.pth",
    ),
    methods=[dict(type="RoILogitDistillation"), dict(type="MaskLogitDistillation")],
)
