# A specialist: the digits 4 to 9 alone.
_base_ = "../faster_rcnn/faster-rcnn_r18-c32_fpn_digits.py"
classes = ("4", "5", "6", "7", "8", "9")
model = dict(roi_head=dict(bbox_head=dict(num_classes=6)))
train_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
val_dataloader = dict(dataset=dict(metainfo=dict(classes=classes)))
test_dataloader = val_dataloader
