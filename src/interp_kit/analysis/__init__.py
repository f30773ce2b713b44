"""The analyses. Each file is one; they share sites, metrics and sweep, and know no concrete task."""
