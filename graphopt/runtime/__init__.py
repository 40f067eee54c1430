"""Running what passes made: sessions that play the schedule of cached programs, and their place in pipelines."""
