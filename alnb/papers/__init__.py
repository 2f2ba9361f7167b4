"""Paper-specific: settings, claims, published numbers, quickstart, lesson, advisor. Nothing imports it."""
