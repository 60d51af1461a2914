# The demo's detectors the other way round: the bigger with the smaller's soft labels beside its own loss.
_base_ = "lad_paa-r18-c32_paa-r18-c16_fpn_digits.py"
model = dict(methods=[dict(type="SoftLabelDistillation")])
