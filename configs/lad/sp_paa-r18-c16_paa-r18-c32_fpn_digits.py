# Tung and Mori, ICCV 2019: the demo's student tells the images of a batch apart as its teacher does.
_base_ = "lad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
model = dict(methods=[dict(type="SimilarityPreservingDistillation")])
