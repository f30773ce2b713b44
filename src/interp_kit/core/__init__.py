"""Base of every other folder: tasks as an idea, batches, results, statistics, plots. Imports nothing above
itself."""
