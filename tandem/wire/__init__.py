"""Protobuf and gRPC: generated stubs, conversions, channels. The only place that knows them."""
