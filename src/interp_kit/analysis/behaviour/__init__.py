"""What models answer, and what they attend to."""
