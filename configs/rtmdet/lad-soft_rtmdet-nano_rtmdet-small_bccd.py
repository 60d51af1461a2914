# The same with the teacher's qualities too.
_base_ = "lad_rtmdet-nano_rtmdet-small_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation", mode="soft")])
