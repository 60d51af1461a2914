# A specialist: the digits 0 to 5 alone.
_base_ = "../faster_rcnn/faster-rcnn_r18-c32_fpn_digits.py"
classes = ("0", "1", "2", "3", "4", "5")
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
train_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
