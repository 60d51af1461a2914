# The blood cells' student with what a bigger detector found, from a COCO result file; training flips the images and
# the boxes of the file with them.
_base_ = "../rtmdet/rtmdet_nano_bccd.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../rtmdet/rtmdet_nano_bccd.py",
    teacher=dict(
        type="DetectionFile",
        file="work_dirs/rtmdet_small_bccd/train.bbox.json",
        ann_file="data/bccd/annotations/train.json",
        missing="empty",
    ),
    methods=[dict(type="DetectionDistillation")],
)
