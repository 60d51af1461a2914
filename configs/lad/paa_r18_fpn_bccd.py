# The bigger detector on blood cells, alone: ResNet-18, trained from scratch. Also the teacher.
_base_ = [
    "../_base_/models/paa_r18_fpn_small.py",
    "../_base_/datasets/bccd_detection.py",
    "../_base_/schedules/schedule_bccd.py",
    "../_base_/small_runtime.py",
]
