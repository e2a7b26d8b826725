"""The model, device-agnostic: seeing frames, prefilling and decoding over views of KV blocks.

It knows tensors and transformers; it does not know streams, services or the wire.
"""
