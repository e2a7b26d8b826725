"""KV blocks between processes: protocol, lanes, links."""
