"""CPU seconds of a whole prune, graphopt beside Torch-Pruning."""
