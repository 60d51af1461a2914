"""Suites of trainings that are compared: what to train, training it, and what came out."""
