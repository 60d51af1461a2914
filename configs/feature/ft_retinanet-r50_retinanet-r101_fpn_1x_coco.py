# Factor transfer on a pyramid; in the first of the 12 epochs the paraphrasers learn.
_base_ = "fitnets_retinanet-r50_retinanet-r101_fpn_1x_coco.py"
model = dict(methods=[dict(type="FactorTransferDistillation", pretrain=dict(epochs=1))])
