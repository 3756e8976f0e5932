"""A harness that kills the pipeline wherever it hurts, and compares what is left with an undisturbed run."""
