"""People's own machines as a provider, by the ssh that they log in with; no account, nothing to install there."""
