# Overhaul on the later stages, a ResNet-101 teaches a ResNet-50.
_base_ = "fitnets_retinanet-r50_retinanet-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="OverhaulDistillation")])
