# Decoupled distillation of the classes of the student's proposals, on the demo's digits.
_base_ = "kd_faster-rcnn-r18-c16_faster-rcnn-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="DKDLoss"))])
