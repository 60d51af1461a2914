# LAD with the box loss averaged as MMDetection's LADHead does: every positive counts alike, whatever its IoU.
_base_ = "lad_paa-r18-c16_paa-r18_fpn_bccd.py"
model = dict(
    student=dict(
        _delete_=True,
        config="{{ fileDirname }}/paa_r18-c16_fpn_bccd.py",
        bbox_head=dict(box_loss_weight="uniform"),
    )
)
