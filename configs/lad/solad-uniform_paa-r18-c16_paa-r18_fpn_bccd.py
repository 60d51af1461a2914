# Positives and soft labels of the bigger detector, with the box loss averaged over the positives.
_base_ = "lad-uniform_paa-r18-c16_paa-r18_fpn_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
