# A smaller teacher: the bigger detector with the smaller one's soft labels beside its own loss.
_base_ = "lad_paa-r18_paa-r18-c16_fpn_bccd.py"
model = dict(methods=[dict(type="SoftLabelDistillation")])
