_base_ = "mmdet::_base_/default_runtime.py"
custom_imports = dict(imports=["lad"], allow_failed_imports=False)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=1, max_keep_ckpts=1))
