"""The audit on programs that were drawn at random and compiled: distributions instead of examples."""
