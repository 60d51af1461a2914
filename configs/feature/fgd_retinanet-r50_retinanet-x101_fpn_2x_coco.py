# FGD (arXiv 2111.11837), the paper's pair; the student starts with its teacher's neck and head.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py",
    teacher=dict(
        config="mmdet::retinanet/retinanet_x101-64x4d_fpn_1x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_1x_coco/"
        "retinanet_x101_64x4d_fpn_1x_coco_20200130-366f5af1.pth",
    ),
    initialise_from_teacher=["neck", "bbox_head"],
    methods=[dict(type="FeatureDistillation", loss=dict(type="FGDLoss"))],
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
