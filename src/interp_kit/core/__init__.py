"""What every other folder builds on: tasks as an idea, batches, results, statistics, plots. Imports nothing above
itself."""
