# A near teacher first, a Swin from the middle of the training on (MTPD, arXiv 2308.09105, with other teachers).
_base_ = "pkd_retinanet-r50_mask-rcnn-swin-s_fpn_2x_coco.py"
levels = ["neck[0]", "neck[1]", "neck[2]", "neck[3]"]
model = dict(
    teacher=None,
    teachers=dict(
        near=dict(
            config="mmdet::retinanet/retinanet_r101_fpn_2x_coco.py",
            checkpoint="https://download.openmmlab.com/mmdetection/v2.0/retinanet/retinanet_r101_fpn_2x_coco/"
            "retinanet_r101_fpn_2x_coco_20200131-5560aee8.pth",
        ),
        far={{_base_.model.teacher}},
    ),
    methods=[
        dict(
            type="FeatureDistillation",
            taught_by="near",
            active=dict(part=(0, 0.5)),
            student=levels,
            teacher=levels,
            loss=dict(type="PKDLoss", loss_weight=10.0),
        ),
        dict(
            type="FeatureDistillation",
            taught_by="far",
            active=dict(part=(0.5, 1)),
            student=levels,
            teacher=levels,
            loss=dict(type="PKDLoss", loss_weight=6.0),
        ),
    ],
)
