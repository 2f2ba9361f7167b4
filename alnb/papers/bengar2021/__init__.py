"""Reducing Label Effort: Self-Supervised meets Active Learning (Bengar et al. 2021)."""
