# The blood cells' student, whose decoder learns to answer queries as its teacher's does (KD-DETR, arXiv 2211.08071).
_base_ = "dino_r18-c16_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/dino_r18-c16_bccd.py",
    teacher=dict(
        config="{{ fileDirname }}/dino_r18_bccd.py",
        checkpoint="work_dirs/dino_r18_bccd/epoch_24.pth",
    ),
    methods=[dict(type="SharedQueryDistillation", num_random=60)],
)
