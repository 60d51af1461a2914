# The smaller detector on blood cells, alone, with the box loss averaged over the positives.
_base_ = "paa_r18-c16_fpn_bccd.py"
model = dict(bbox_head=dict(box_loss_weight="uniform"))
