"""Networks of a distillation: roles, building, preprocessing, caching, speed and initialisation."""
