# The digits' student with what a bigger detector found, from a COCO result file: of RTMDet here, of any detector
# otherwise. The file: tools/test.py on the training images with test_evaluator.outfile_prefix, see
# docs/foreign_teachers.md.
_base_ = "../rtmdet/rtmdet_nano_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../rtmdet/rtmdet_nano_digits.py",
    teacher=dict(
        type="DetectionFile",
        file="work_dirs/rtmdet_mini_digits/train.bbox.json",
        ann_file="data/digits/annotations/train.json",
        missing="empty",
    ),
    methods=[dict(type="DetectionDistillation")],
)
