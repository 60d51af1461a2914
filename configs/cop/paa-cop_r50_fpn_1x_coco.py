# PAA with conditional objectness prediction (arXiv 2108.10520, appendix).
_base_ = ["mmdet::paa/paa_r50_fpn_1x_coco.py", "../_base_/tta/soft_vote_coco.py"]
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(bbox_head=dict(type="PAACOPHead", loss_cls=dict(type="ProbabilityFocalLoss")))
