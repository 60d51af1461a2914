# Plain distillation, Faster R-CNN: a ResNet-101 teaches a ResNet-50.
_base_ = "dkd_r50-frcnn-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="KDLoss"))])
