"""What decides how long a worker thinks: small policies on declared signals, all of them pure."""
