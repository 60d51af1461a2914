# Decoupled distillation of the class logits at every anchor, on blood cells.
_base_ = "kd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(methods=[dict(type="DenseLogitDistillation", loss=dict(type="DKDLoss"))])
