# A student of 20 photographs, with the soft labels of a bigger detector of all 205 beside its own loss.
_base_ = "lad-few_paa-r18-c16_paa-r18_fpn_bccd.py"
model = dict(methods=[dict(type="SoftLabelDistillation")])
