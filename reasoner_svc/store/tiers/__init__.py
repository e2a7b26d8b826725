"""One file a tier."""
