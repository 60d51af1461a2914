# A specialist: the red blood cells alone.
_base_ = "../feature/retinanet_r18_fpn_bccd.py"
classes = ("RBC",)
model = dict(bbox_head=dict(num_classes=1))
train_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
