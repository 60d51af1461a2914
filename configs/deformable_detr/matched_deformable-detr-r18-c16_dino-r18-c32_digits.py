# The digits' student learns the predictions of a DINO, matched with its own (after DETRDistill, arXiv 2211.10156).
_base_ = "deformable-detr_r18-c16_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/deformable-detr_r18-c16_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/../dino/dino_r18-c32_digits.py",
        checkpoint="work_dirs/dino_r18-c32_digits/epoch_6.pth",
    ),
    methods=[dict(type="MatchedQueryDistillation")],
)
