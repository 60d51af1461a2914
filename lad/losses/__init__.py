"""Distillation losses: a pure function and a thin registered module each."""

from lad.losses.focal_kl import FocalKLLoss, focal_kl_loss

__all__ = ["FocalKLLoss", "focal_kl_loss"]
