# FedNTD (arXiv 2106.03097) on blood cells: three clients that annotate a class each keep those that they do not.
_base_ = "retinanet-clients_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/retinanet-server_r18-c16_fpn_bccd.py",
    teachers=dict(round=dict(snapshot_of="student", at="start")),
    methods=[dict(type="NotTrueDistillation", taught_by="round")],
)
