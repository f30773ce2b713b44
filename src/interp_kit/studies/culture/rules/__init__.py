"""Location of the rule of a quiz in the culture networks, and which parts carry it."""
