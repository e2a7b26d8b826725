"""The front door: streams, placement, replay, supervision. Installs without torch."""
