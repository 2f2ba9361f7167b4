"""Self-supervised pretexts."""
