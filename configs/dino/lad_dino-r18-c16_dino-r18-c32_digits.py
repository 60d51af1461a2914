# The digits' student with its teacher's queries, trained further, and the matches that its teacher finds for them.
_base_ = "dino_r18-c16_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/dino_r18-c16_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/dino_r18-c32_digits.py",
        checkpoint="work_dirs/dino_r18-c32_digits/epoch_6.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation", inherit_queries=True)],
)
