"""What happens to a stage or an evaluation, and doing it."""
