"""One small file per model family: vision call, prompt, special tokens, how positions advance."""
