"""Shell. What carries frames between two processes; one file a kind, one interface (`base.Lane`)."""
