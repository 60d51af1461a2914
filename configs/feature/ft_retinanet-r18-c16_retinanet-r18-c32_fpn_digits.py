# Factor transfer: in the first epoch paraphrasers learn the teacher's maps, then the student their factors.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="FactorTransferDistillation", pretrain=dict(epochs=1))])
