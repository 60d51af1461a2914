# Similarity preservation: images of a batch are to be as alike as they are for the teacher.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(methods=[dict(type="SimilarityPreservingDistillation")])
