"""Image-text embedders, one file each; `pick` chooses."""
