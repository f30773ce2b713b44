"""Features of a culture network on grids."""
