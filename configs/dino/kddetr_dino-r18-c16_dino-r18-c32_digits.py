# The digits' student, whose decoder learns to answer queries as its teacher's does (KD-DETR, arXiv 2211.08071).
_base_ = "dino_r18-c16_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/dino_r18-c16_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/dino_r18-c32_digits.py",
        checkpoint="work_dirs/dino_r18-c32_digits/epoch_6.pth",
    ),
    methods=[dict(type="SharedQueryDistillation", num_random=30)],
)
