"""The embedded default model: drawn video, questions with known answers, training and evaluation."""
