# Stage 2 on LVIS: a student on class-balanced samples, with the features of two teachers.
_base_ = "faster-rcnn-balanced_r50_fpn_1x_lvis-v1.py"
plain = "{{ fileDirname }}/faster-rcnn_r50_fpn_1x_lvis-v1.py"
jitter = "{{ fileDirname }}/faster-rcnn-jitter_r50_fpn_1x_lvis-v1.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student=plain,
    teachers=dict(
        plain=dict(config=plain, checkpoint="work_dirs/faster-rcnn_r50_fpn_1x_lvis-v1/epoch_12.pth"),
        jitter=dict(config=jitter, checkpoint="work_dirs/faster-rcnn-jitter_r50_fpn_1x_lvis-v1/epoch_12.pth"),
    ),
    methods=[dict(type="ClassBalancedDistillation")],
)
