# Stage 2: a student from scratch on class-balanced samples, with the features of four teachers: the seeds 0 and 1 of
# each kind.
_base_ = "faster-rcnn-balanced_r18-c16_fpn_digits-tail.py"
plain = "{{ fileDirname }}/faster-rcnn_r18-c16_fpn_digits-tail.py"
jitter = "{{ fileDirname }}/faster-rcnn-jitter_r18-c16_fpn_digits-tail.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student=plain,
    teachers=dict(
        plain=dict(config=plain, checkpoint="work_dirs/faster-rcnn_r18-c16_fpn_digits-tail/epoch_6.pth"),
        plain1=dict(
            config=plain, checkpoint="work_dirs/faster-rcnn_r18-c16_fpn_digits-tail_seed1/epoch_6.pth"
        ),
        jitter=dict(
            config=jitter, checkpoint="work_dirs/faster-rcnn-jitter_r18-c16_fpn_digits-tail/epoch_6.pth"
        ),
        jitter1=dict(
            config=jitter, checkpoint="work_dirs/faster-rcnn-jitter_r18-c16_fpn_digits-tail_seed1/epoch_6.pth"
        ),
    ),
    methods=[dict(type="ClassBalancedDistillation")],
)
