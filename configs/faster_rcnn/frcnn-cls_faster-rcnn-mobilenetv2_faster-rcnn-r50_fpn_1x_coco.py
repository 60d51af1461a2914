# Its soft classification alone.
_base_ = "frcnn-all_faster-rcnn-mobilenetv2_faster-rcnn-r50_fpn_1x_coco.py"
model = dict(methods=[dict(type="RPNDistillation", nu=0.0), dict(type="RCNNDistillation", nu=0.0)])
