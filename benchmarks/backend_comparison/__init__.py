"""What the benchmark of the torch.compile backend is made of."""
