"""Where the rule of a quiz stands in the culture networks, and which parts carry it."""
