"""Synthesis of training images from a trained detector, for distillation without data."""
