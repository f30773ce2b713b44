"""Feature-variable alignment."""
