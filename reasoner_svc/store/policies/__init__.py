"""Who leaves RAM first: one file a policy."""
