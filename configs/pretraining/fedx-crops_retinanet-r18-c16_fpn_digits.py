# A round of FedX on the digits cut out of their scenes: beside NT-Xent it learns from the network it began with.
_base_ = "simclr-crops_retinanet-r18-c16_fpn_digits.py"
model = dict(methods=[dict(type="ContrastiveLearning", temperature=0.1), dict(type="FedX")])
train_dataloader = dict(dataset=dict(references=True))
