"""Who starts and stops the services: one interface, one file a backend."""
