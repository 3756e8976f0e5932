"""Vast.ai on loopback."""
