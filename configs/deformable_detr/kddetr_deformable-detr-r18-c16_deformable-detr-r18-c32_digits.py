# The digits' student, whose decoder learns to answer queries as its teacher's does (KD-DETR, arXiv 2211.08071).
_base_ = "deformable-detr_r18-c16_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/deformable-detr_r18-c16_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/deformable-detr_r18-c32_digits.py",
        checkpoint="work_dirs/deformable-detr_r18-c32_digits/epoch_6.pth",
    ),
    methods=[dict(type="SharedQueryDistillation", num_random=30)],
)
