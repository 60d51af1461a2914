# Without an IoU branch the authors weight all positives' boxes alike.
_base_ = "paa-cop_r18-c16_fpn_digits.py"
model = dict(bbox_head=dict(with_iou_branch=False, box_loss_weight="uniform"))
