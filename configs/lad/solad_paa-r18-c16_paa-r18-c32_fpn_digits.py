# The demo's student with its teacher's positives and soft labels.
_base_ = "lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
