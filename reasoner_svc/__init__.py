"""KV blocks and a question to tokens: inbox, store, view, decode."""
