"""Where published blocks are kept: the directory, who is evicted, the tiers that hold the bytes."""
