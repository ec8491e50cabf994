"""What a configuration costs before anyone rents a cluster: parameters, memory, FLOPs, a layout that fits."""
