"""Checkpoints in diffusers' format: export, import, strict verification, and loading a run's start."""
