"""The user's own class, made smaller: sizes and attributes repaired to fit what a plan left."""
