"""Plain Python around files, locks, signals and remote services; no Prefect here."""
