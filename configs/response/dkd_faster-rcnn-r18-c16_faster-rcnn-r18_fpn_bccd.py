# Decoupled distillation of the classes of the student's proposals, on blood cells.
_base_ = "kd_faster-rcnn-r18-c16_faster-rcnn-r18_fpn_bccd.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="DKDLoss"))])
