# The same with the teacher's qualities too.
_base_ = "lad_r18-c16-tood-r18_fpn_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation", mode="soft")])
