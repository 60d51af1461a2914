# Zhang et al., ICCV 2019 (BYOT), on blood cells: two exits learn from the network's own deepest predictor.
_base_ = "exits_retinanet-r18-c16_retinanet-r18-c16_fpn_bccd.py"
# With the KL divergence of the paper, as the suite bccd_together measured it; the default suits sigmoid heads better.
model = dict(methods=[dict(type="SelfDistillation", loss=dict(type="KDLoss"))])
