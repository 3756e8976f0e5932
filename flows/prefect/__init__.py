"""What only a Prefect server needs."""
