# Two specialists, one of the digits 0 to 5 and one of 4 to 9, teach a student of all ten.
_base_ = "../faster_rcnn/faster-rcnn_r18-c16_fpn_digits.py"
model = dict(
    _delete_=True,
    type="DistillationDetector",
    student="{{ fileDirname }}/../faster_rcnn/faster-rcnn_r18-c16_fpn_digits.py",
    teachers=dict(
        low=dict(
            config="{{ fileDirname }}/faster-rcnn-low_r18-c32_fpn_digits.py",
            checkpoint="work_dirs/faster-rcnn-low_r18-c32_fpn_digits/epoch_6.pth",
        ),
        high=dict(
            config="{{ fileDirname }}/faster-rcnn-high_r18-c32_fpn_digits.py",
            checkpoint="work_dirs/faster-rcnn-high_r18-c32_fpn_digits/epoch_6.pth",
        ),
    ),
    methods=[
        dict(
            type="MulDE",
            classes=["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"],
            knows=dict(low=["0", "1", "2", "3", "4", "5"], high=["4", "5", "6", "7", "8", "9"]),
        )
    ],
)
