"""Placed graphs: one graph with every device's share of the work, and the segments that it is cut into."""
