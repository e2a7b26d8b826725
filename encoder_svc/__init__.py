"""Frames to KV blocks: decode, sample, encode with a sliding window, pack, send."""
