"""The config of a distillation, written for a student, a teacher and data: what `lad new` makes."""
