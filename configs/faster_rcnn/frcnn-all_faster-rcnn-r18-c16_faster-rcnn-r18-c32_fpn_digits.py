# Chen et al., NIPS 2017, complete, on the demo's digits.
_base_ = "faster-rcnn_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/faster-rcnn_r18-c16_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/faster-rcnn_r18-c32_fpn_digits.py",
        checkpoint="work_dirs/faster-rcnn_r18-c32_fpn_digits/epoch_6.pth",
    ),
    methods=[dict(type="HintDistillation"), dict(type="RPNDistillation"), dict(type="RCNNDistillation")],
)
