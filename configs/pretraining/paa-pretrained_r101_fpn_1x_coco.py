# SimCLRv2, second command: PAA-R101 on a tenth of COCO's labels, from its pretrained backbone and neck.
_base_ = "mmdet::paa/paa_r101_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))
load_from = "work_dirs/simclr_paa-r101_fpn_coco/epoch_100.pth"
# As MMDetection's tools/misc/split_coco.py writes it.
train_dataloader = dict(dataset=dict(ann_file="semi_anns/instances_train2017.1@10.json"))
