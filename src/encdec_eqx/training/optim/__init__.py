"""Optimizers, and learning rates over time and by part."""
