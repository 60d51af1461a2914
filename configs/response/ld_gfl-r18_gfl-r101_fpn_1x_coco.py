# Localisation distillation, all its logits: edges where objects are and around them, classes where they are.
_base_ = "gfl_r18_fpn_1x_coco.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/gfl_r18_fpn_1x_coco.py",
    teacher=dict(
        config="mmdet::gfl/gfl_r101_fpn_ms-2x_coco.py",
        checkpoint="https://download.openmmlab.com/mmdetection/v2.0/gfl/gfl_r101_fpn_mstrain_2x_coco/"
        "gfl_r101_fpn_mstrain_2x_coco_20200629_200126-dd12f847.pth",
    ),
    methods=[
        dict(type="LocalisationDistillation"),
        # The authors take a weight of 10 and average over the 80 classes, and over the positives of each level apart.
        dict(
            type="DenseLogitDistillation",
            loss=dict(type="KDLoss", use_sigmoid=False, temperature=2.0, loss_weight=0.5),
            where="positive",
        ),
    ],
)
