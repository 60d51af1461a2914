# Activation boundaries of a ResNet-101's later stages; the first of the 12 epochs is the pretraining.
_base_ = "fitnets_retinanet-r50_retinanet-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="ActivationBoundaryDistillation", pretrain=dict(epochs=1))])
