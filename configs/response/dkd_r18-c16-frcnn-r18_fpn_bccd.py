# Decoupled distillation of the classes of the student's proposals, on blood cells.
_base_ = "kd_r18-c16-frcnn-r18_fpn_bccd.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="DKDLoss"))])
