"""Media to frames: pictures, and encoded streams cut anywhere."""
