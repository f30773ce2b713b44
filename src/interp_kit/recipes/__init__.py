"""Doors: commands under the names that they had before each study was one folder."""
