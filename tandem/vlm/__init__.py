"""Vision-language models over views of KV blocks: loading, preprocessing, attention."""
