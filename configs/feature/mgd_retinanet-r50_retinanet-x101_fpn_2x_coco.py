# MGD (arXiv 2205.01529), the paper's pair; the student starts with its teacher's neck and head.
_base_ = "mmdet::retinanet/retinanet_r50_fpn_2x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::retinanet/retinanet_r50_fpn_2x_coco.py",
    teacher=dict(
        config="mmdet::retinanet/retinanet_x101-64x4d_fpn_ms-640-800-3x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_x101_64x4d_fpn_mstrain_3x_coco/"
        "retinanet_x101_64x4d_fpn_mstrain_3x_coco_20210719_051838-022c2187.pth",
    ),
    initialise_from_teacher=["neck", "bbox_head"],
    methods=[dict(type="FeatureDistillation", loss=dict(type="MGDLoss"))],
)
optim_wrapper = dict(clip_grad=dict(max_norm=35, norm_type=2))
