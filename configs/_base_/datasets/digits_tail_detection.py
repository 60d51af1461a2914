# The demo's digits with a long tail, of which the 0 is trained on a hundred times as often as the 9:
# python tools/dataset_converters/make_digits.py --out data/digits_tail --images 800 --imbalance 100
_base_ = "digits_detection.py"
data_root = "data/digits_tail/"
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
# The digits 6 to 9 are rare, 3 to 5 common, 0 to 2 frequent.
val_evaluator = dict(
    ann_file=data_root + "annotations/val.json",
    frequencies=dict(ann_file=data_root + "annotations/train.json", rare=40, common=200),
)
test_evaluator = val_evaluator
