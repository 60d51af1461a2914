# Decoupled distillation of the class logits at every prior, on the demo's digits.
_base_ = "kd_gfl-r18-c16_gfl-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="DenseLogitDistillation", loss=dict(type="DKDLoss"))])
