"""Servers for loopback that speak the protocols of the services we use to their real clients."""
