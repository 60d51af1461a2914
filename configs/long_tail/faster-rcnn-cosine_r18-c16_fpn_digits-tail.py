# Class-balanced sampling with a cosine classifier: neither features nor classes differ in length.
_base_ = "faster-rcnn-balanced_r18-c16_fpn_digits-tail.py"
# Its temperature of 20 is not named here: MMDetection and its fork spell the setting differently.
model = dict(roi_head=dict(bbox_head=dict(cls_predictor_cfg=dict(type="NormedLinear"))))
