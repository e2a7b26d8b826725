"""Blocks on disk: append-only data files that describe themselves, and a catalogue of what is durable."""
