# Stage 2 for a dense head: a student from scratch on class-balanced samples, with the features of two teachers.
_base_ = "retinanet-balanced_r18-c16_fpn_digits-tail.py"
plain = "{{ fileDirname }}/retinanet_r18-c16_fpn_digits-tail.py"
jitter = "{{ fileDirname }}/retinanet-jitter_r18-c16_fpn_digits-tail.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student=plain,
    teachers=dict(
        plain=dict(config=plain, checkpoint="work_dirs/retinanet_r18-c16_fpn_digits-tail/epoch_6.pth"),
        jitter=dict(
            config=jitter, checkpoint="work_dirs/retinanet-jitter_r18-c16_fpn_digits-tail/epoch_6.pth"
        ),
    ),
    methods=[dict(type="ClassBalancedDistillation")],
)
