# Relational distillation of the objects of a batch, with MMRazor's pair for CWD.
_base_ = "cwd_faster-rcnn-r50_faster-rcnn-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="RelationalDistillation")])
