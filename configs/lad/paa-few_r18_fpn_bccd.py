# The bigger detector on 20 labelled photographs, trained from scratch.
_base_ = [
    "../_base_/models/paa_r18_fpn_small.py",
    "../_base_/datasets/bccd_few_detection.py",
    "../_base_/schedules/schedule_bccd.py",
    "../_base_/small_runtime.py",
]
