# The small network has a COP head, and the Fisher score decides object by object.
_base_ = "colad_paa-r18-c16_paa-r18-c32_fpn_digits.py"
model = dict(
    networks=dict(small="{{ fileDirname }}/../cop/paa-cop_r18-c16_fpn_digits.py"),
    methods=[dict(type="CoLearningAssignment", switch=dict(type="FisherSwitch", per="gt"))],
)
