# Plain distillation, Faster R-CNN: a ResNet-101 teaches a ResNet-18.
_base_ = "dkd_faster-rcnn-r18_faster-rcnn-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="KDLoss"))])
