# PAA with implicit objectness prediction (arXiv 2108.10520, appendix).
_base_ = "paa_r18_fpn_1x_coco.py"
model = dict(bbox_head=dict(type="PAAIOPHead", loss_cls=dict(type="ProbabilityFocalLoss")))
