# The demo's student with its teacher's soft labels beside its own loss.
_base_ = "lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="SoftLabelDistillation")])
