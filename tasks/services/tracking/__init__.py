"""Experiment tracking: metrics, checkpoints and coordination through W&B."""
