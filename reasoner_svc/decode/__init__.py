"""From a question to tokens: sampling, stopping, scheduling, and the thread that owns the model."""
