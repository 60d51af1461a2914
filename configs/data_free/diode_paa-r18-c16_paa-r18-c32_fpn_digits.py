# The demo's student from its teacher's detections in images that were synthesised from the teacher; no digit is seen.
# The images: see docs/data_free.md.
_base_ = "../lad/paa_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../lad/paa_r18-c16_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/../lad/paa_r18-c32_fpn_digits.py",
        checkpoint="work_dirs/paa_r18-c32_fpn_digits/epoch_6.pth",
    ),
    student_loss=False,
    methods=[dict(type="SoftLabelDistillation", weights="teacher", cls_weight=10.0)],
)
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="RepeatDataset",
        # 200 images: 50 steps an epoch.
        times=2,
        dataset=dict(
            type="DigitsDataset",
            labelled=False,
            data_root="data/digits_synthesised/",
            ann_file="annotations.json",
            data_prefix=dict(img="images/"),
            pipeline={{_base_.train_pipeline}},
        ),
    )
)
