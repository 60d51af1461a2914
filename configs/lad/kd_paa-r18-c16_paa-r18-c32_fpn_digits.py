# The demo's student from its teacher's soft labels alone.
_base_ = "lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
model = dict(student_loss=False, methods=[dict(type="SoftLabelDistillation", cls_weight=10.0)])
