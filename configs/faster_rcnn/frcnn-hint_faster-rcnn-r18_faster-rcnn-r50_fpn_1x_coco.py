# Its hints alone.
_base_ = "frcnn-all_faster-rcnn-r18_faster-rcnn-r50_fpn_1x_coco.py"
model = dict(methods=[dict(type="HintDistillation")])
