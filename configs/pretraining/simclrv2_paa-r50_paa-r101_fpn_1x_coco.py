# SimCLRv2, third command: PAA-R50 from PAA-R101's detections in all images of COCO, without labels.
_base_ = "mmdet::paa/paa_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="mmdet::paa/paa_r50_fpn_1x_coco.py",
    teacher=dict(
        config="{{ fileDirname }}/paa-pretrained_r101_fpn_1x_coco.py",
        checkpoint="work_dirs/paa-pretrained_r101_fpn_1x_coco/epoch_12.pth",
    ),
    student_loss=False,
    methods=[dict(type="SoftLabelDistillation", weights="teacher", cls_weight=10.0)],
)
images = dict(type="CocoDataset", labelled=False, data_root="data/coco/", pipeline={{_base_.train_pipeline}})
train_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type="ConcatDataset",
        datasets=[
            dict(images, ann_file="annotations/instances_train2017.json", data_prefix=dict(img="train2017/")),
            dict(
                images,
                ann_file="annotations/image_info_unlabeled2017.json",
                data_prefix=dict(img="unlabeled2017/"),
            ),
        ],
    )
)
