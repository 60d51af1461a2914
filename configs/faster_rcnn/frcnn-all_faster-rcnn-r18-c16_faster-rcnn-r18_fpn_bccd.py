# Chen et al., NIPS 2017, complete, on blood cells.
_base_ = "faster-rcnn_r18-c16_fpn_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/faster-rcnn_r18-c16_fpn_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/faster-rcnn_r18_fpn_bccd.py",
        checkpoint="work_dirs/faster-rcnn_r18_fpn_bccd/epoch_12.pth",
        speed=dict(channels_last=True),
    ),
    methods=[dict(type="HintDistillation"), dict(type="RPNDistillation"), dict(type="RCNNDistillation")],
)
