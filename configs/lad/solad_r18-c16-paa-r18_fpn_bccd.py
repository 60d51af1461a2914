# The smaller detector with the bigger one's positives and soft labels.
_base_ = "lad_r18-c16-paa-r18_fpn_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
