# The blood cells' student with its teacher's queries, trained further, and the matches that its teacher finds for them.
_base_ = "kddetr_dino-r18-c16_dino-r18_bccd.py"
model = dict(methods=[dict(type="LabelAssignmentDistillation", inherit_queries=True)])
