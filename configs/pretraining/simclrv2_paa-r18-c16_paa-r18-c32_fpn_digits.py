# SimCLRv2, third command: the demo's student from its teacher's detections in all 800 images, without labels.
_base_ = "../lad/paa_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../lad/paa_r18-c16_fpn_digits.py",
    teacher=dict(
        config="{{ fileDirname }}/paa-pretrained_r18-c32_fpn_digits.py",
        checkpoint="work_dirs/paa-pretrained_r18-c32_fpn_digits/epoch_6.pth",
    ),
    student_loss=False,
    methods=[dict(type="SoftLabelDistillation", weights="teacher", cls_weight=10.0)],
)
train_dataloader = dict(dataset=dict(labelled=False))
