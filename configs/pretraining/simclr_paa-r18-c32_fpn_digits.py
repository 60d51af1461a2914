# SimCLRv2, first command: backbone and neck of the demo's teacher without labels.
_base_ = "simclr_retinanet-r18-c16_fpn_digits.py"
model = dict(student="{{ fileDirname }}/../lad/paa_r18-c32_fpn_digits.py")
