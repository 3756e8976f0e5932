"""Networks; they take plain numbers, never a config."""
