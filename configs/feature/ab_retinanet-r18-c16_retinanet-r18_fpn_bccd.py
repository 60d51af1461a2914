# Activation boundaries: in the first epochs backbone and connectors learn when the teacher's neurons are active.
_base_ = "cwd_retinanet-r18-c16_retinanet-r18_fpn_bccd.py"
model = dict(methods=[dict(type="ActivationBoundaryDistillation", pretrain=dict(epochs=4))])
# 12 epochs for the task, as without pretraining.
train_cfg = dict(max_epochs=16, val_interval=16)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=20),
    dict(type="MultiStepLR", by_epoch=True, milestones=[13, 15], gamma=0.1),
]
