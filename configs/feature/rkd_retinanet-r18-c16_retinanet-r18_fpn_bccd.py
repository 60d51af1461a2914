# Relational distillation: objects are to be as near to each other, at the same angles, as for the teacher.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(methods=[dict(type="RelationalDistillation")])
