"""Programs over several processes: what each runs, what it hands to which other, and one process that shows the same."""
