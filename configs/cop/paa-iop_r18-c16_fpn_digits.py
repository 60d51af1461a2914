# The demo's student with implicit objectness prediction.
_base_ = ["../lad/paa_r18-c16_fpn_digits.py", "../_base_/tta/soft_vote_digits.py"]
model = dict(bbox_head=dict(type="PAAIOPHead", loss_cls=dict(type="ProbabilityFocalLoss")))
