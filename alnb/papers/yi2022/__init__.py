"""PT4AL: Using Self-Supervised Pretext Tasks for Active Learning (Yi et al. 2022)."""
