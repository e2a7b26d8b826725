"""Attention backends: one file each, one name for all (`pick`)."""
