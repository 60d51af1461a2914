# SimCLRv2, first command: backbone and neck of PAA-R101 from COCO's unlabelled images, with random initial weights.
_base_ = "simclr_retinanet-r50_fpn_coco.py"
model = dict(
    student=dict(_delete_=True, config="mmdet::paa/paa_r101_fpn_1x_coco.py", backbone={{_base_.trained}})
)
