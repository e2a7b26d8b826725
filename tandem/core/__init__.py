"""The shared vocabulary: ids, stream time, blocks, errors. Standard library only."""
