# Its soft classification alone.
_base_ = "frcnn-all_r50_r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="RPNDistillation", nu=0.0), dict(type="RCNNDistillation", nu=0.0)])
