"""One axis of a program, such as tokens, rows or frames, computed in parts."""
