# SimCLRv2, second command: the demo's teacher on 40 labelled images, from its pretrained backbone and neck.
_base_ = "../lad/paa-few_r18-c32_fpn_digits.py"
load_from = "work_dirs/simclr_paa-r18-c32_fpn_digits/epoch_20.pth"
