# The smaller detector with the bigger one's soft labels beside its own loss.
_base_ = "lad_paa-r18-c16_paa-r18_fpn_bccd.py"
model = dict(methods=[dict(type="SoftLabelDistillation")])
