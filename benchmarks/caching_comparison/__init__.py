"""Parts of the benchmark of cached sampling's speed."""
