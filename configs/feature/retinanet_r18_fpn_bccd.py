# A teacher for blood cells, trained from scratch.
_base_ = [
    "../_base_/models/retinanet_r18_fpn_small.py",
    "../_base_/datasets/bccd_detection.py",
    "../_base_/schedules/schedule_bccd.py",
    "../_base_/small_runtime.py",
]
