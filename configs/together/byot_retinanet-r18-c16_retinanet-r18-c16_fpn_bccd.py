# Zhang et al., ICCV 2019 (BYOT), on blood cells: two exits learn from the network's own deepest predictor.
_base_ = "exits_retinanet-r18-c16_retinanet-r18-c16_fpn_bccd.py"
model = dict(methods=[dict(type="SelfDistillation")])
