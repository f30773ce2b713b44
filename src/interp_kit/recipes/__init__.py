"""One file a study: task x model x analyses, to be read like a paper's method section."""
