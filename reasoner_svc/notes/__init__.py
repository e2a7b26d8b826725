"""Watchers take notes on the live stream; questions see the notes beside the video."""
