# FedX (arXiv 2207.09158): the same clients learn from the network that a round began with, too.
_base_ = "simclr-clients_retinanet-r18-c16_fpn_digits.py"
model = dict(methods=[dict(type="ContrastiveLearning", temperature=0.1), dict(type="FedX")])
train_dataloader = dict(dataset=dict(references=True))
