# Activation boundaries: in the first epoch backbone and connectors learn when the teacher's neurons are active.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="ActivationBoundaryDistillation", pretrain=dict(epochs=1))])
