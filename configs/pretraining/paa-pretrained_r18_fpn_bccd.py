# SimCLRv2, second command: the bigger detector on 20 labelled photographs, from its pretrained backbone and neck.
_base_ = "../lad/paa-few_r18_fpn_bccd.py"
load_from = "work_dirs/simclr_paa-r18_fpn_bccd/epoch_50.pth"
