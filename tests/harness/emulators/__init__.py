"""Loopback servers that stand for the services we talk to."""
