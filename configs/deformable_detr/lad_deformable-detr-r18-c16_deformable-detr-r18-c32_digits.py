# The digits' student with its teacher's queries, left as they are, and the matches that its teacher finds for them.
_base_ = "deformable-detr_r18-c16_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/deformable-detr_r18-c16_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/deformable-detr_r18-c32_digits.py",
        checkpoint="work_dirs/deformable-detr_r18-c32_digits/epoch_6.pth",
    ),
    methods=[dict(type="LabelAssignmentDistillation", inherit_queries="frozen")],
)
