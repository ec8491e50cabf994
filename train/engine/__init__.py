"""The engine: ranks, sharding, optimizer, checkpoints, stop flags, metrics."""
