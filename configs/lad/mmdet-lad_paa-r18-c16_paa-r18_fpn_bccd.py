# MMDetection's own LAD, for comparison: student, teacher and schedule of lad_paa-r18-c16_paa-r18_fpn_bccd.py.
_base_ = "paa_r18_fpn_bccd.py"
model = dict(
    type="LAD",
    backbone=dict(base_channels=16),
    neck=dict(in_channels=[16, 32, 64, 128]),
    bbox_head=dict(type="LADHead"),
    teacher_backbone={{_base_.model.backbone}},
    teacher_neck={{_base_.model.neck}},
    # The teacher's head with MMDetection's assignment.
    teacher_bbox_head=dict(
        type="LADHead",
        reg_decoded_bbox=True,
        score_voting=True,
        topk=9,
        num_classes=3,
        in_channels=64,
        stacked_convs=2,
        feat_channels=64,
        anchor_generator={{_base_.model.bbox_head.anchor_generator}},
        bbox_coder={{_base_.model.bbox_head.bbox_coder}},
        loss_cls={{_base_.model.bbox_head.loss_cls}},
        loss_bbox={{_base_.model.bbox_head.loss_bbox}},
        loss_centerness={{_base_.model.bbox_head.loss_centerness}},
    ),
    teacher_ckpt="work_dirs/paa_r18_fpn_bccd/epoch_12.pth",
)
