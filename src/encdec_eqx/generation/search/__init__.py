"""Searches, one per file: how the next tokens are chosen."""
