"""The studies: each asks one question of models of one task, end to end."""
