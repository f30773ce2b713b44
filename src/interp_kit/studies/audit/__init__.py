"""The audit: every method on circuits whose truth is known."""
