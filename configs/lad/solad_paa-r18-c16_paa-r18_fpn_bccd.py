# The smaller detector with the bigger one's positives and soft labels.
_base_ = "lad_paa-r18-c16_paa-r18_fpn_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
