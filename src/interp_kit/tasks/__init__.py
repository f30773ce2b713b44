"""The task families. Each folder is one; they never import each other, and know no torch."""
