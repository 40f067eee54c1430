"""Parts of the benchmark `partition_quality`."""
