# Plain distillation, Faster R-CNN: a ResNet-50 teaches a MobileNetV2.
_base_ = "dkd_mobilenetv2-frcnn-r50_fpn_1x_coco.py"
model = dict(methods=[dict(type="RoILogitDistillation", loss=dict(type="KDLoss"))])
