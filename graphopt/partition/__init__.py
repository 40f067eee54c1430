"""Plans of partitions as plain numbers: what parts of a program cost, and which device should compute which."""
