# Localisation distillation on the demo's digits: the teacher's edge distributions.
_base_ = "kd_gfl-r18-c16_gfl-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="LocalisationDistillation")])
