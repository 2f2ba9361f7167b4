"""Nets, their training, and the pretexts they learn from without labels."""
