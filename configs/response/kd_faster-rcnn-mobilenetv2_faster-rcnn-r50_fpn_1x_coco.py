# Plain distillation, Faster R-CNN: a ResNet-50 teaches a MobileNetV2.
_base_ = "dkd_faster-rcnn-mobilenetv2_faster-rcnn-r50_fpn_1x_coco.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="KDLoss"))])
