# Without an IoU branch the authors weight all positives' boxes alike.
_base_ = "paa-iop_r50_fpn_1x_coco.py"
model = dict(bbox_head=dict(with_iou_branch=False, box_loss_weight="uniform"))
