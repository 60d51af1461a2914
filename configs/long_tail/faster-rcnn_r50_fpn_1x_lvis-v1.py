# Stage 1 on LVIS: a teacher that sees the images as they come (instance sampling).
_base_ = [
    "mmdet::_base_/models/faster-rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v1_detection.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    roi_head=dict(bbox_head=dict(num_classes=1203)),
    # LVIS counts 300 detections of an image.
    test_cfg=dict(rcnn=dict(score_thr=0.0001, max_per_img=300)),
)
