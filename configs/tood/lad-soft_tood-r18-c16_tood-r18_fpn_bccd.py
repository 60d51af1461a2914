# The same with the teacher's qualities too.
_base_ = "lad_tood-r18-c16_tood-r18_fpn_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation", mode="soft")])
