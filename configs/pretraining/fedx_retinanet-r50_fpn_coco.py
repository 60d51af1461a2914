# A round of FedX on COCO's images: beside NT-Xent it learns from the network it began with.
_base_ = "simclr_retinanet-r50_fpn_coco.py"
model = dict(methods=[dict(type="ContrastiveLearning", temperature=0.1), dict(type="FedX")])
train_dataloader = dict(dataset=dict(references=True))
