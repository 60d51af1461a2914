# A teacher for blood cells: ResNet-18, trained from scratch.
_base_ = [
    "../_base_/models/gfl_r18_fpn_small.py",
    "../_base_/datasets/bccd_detection.py",
    "../_base_/schedules/schedule_bccd.py",
    "../_base_/small_runtime.py",
]
