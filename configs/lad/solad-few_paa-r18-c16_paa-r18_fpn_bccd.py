# A student of 20 photographs, with positives and soft labels of a bigger detector of all 205.
_base_ = "lad-few_paa-r18-c16_paa-r18_fpn_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation"), dict(type="SoftLabelDistillation")])
