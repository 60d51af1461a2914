# Factor transfer: in the first epochs paraphrasers learn the teacher's maps, then the student their factors.
_base_ = "ab_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(methods=[dict(type="FactorTransferDistillation", pretrain=dict(epochs=4))])
