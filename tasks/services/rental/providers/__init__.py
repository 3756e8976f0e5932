"""Where machines are rented, one file a provider."""
