# PKD (arXiv 2207.02039), a Mask R-CNN on a Swin teaches a RetinaNet. As in the authors' code, levels are paired by
# their number, and the student's maps are enlarged to the teacher's.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py",
    teacher=dict(
        config="mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/"
        "mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth",
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            student=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            teacher=["neck[0]", "neck[1]", "neck[2]", "neck[3]"],
            loss=dict(type="PKDLoss", loss_weight=6.0),
        )
    ],
)
