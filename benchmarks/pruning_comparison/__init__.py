"""Parts of the comparison with Torch-Pruning: each tool's side, one referee for both, one process a run."""
