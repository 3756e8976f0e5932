"""The outside world: Prefect tasks, and the plain services they are a coat over."""
