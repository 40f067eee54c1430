"""Programs over several processes: what each runs, and what it hands to which other."""
