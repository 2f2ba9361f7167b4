"""Nets and how they are trained."""
