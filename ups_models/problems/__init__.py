"""Partial differential equations: what is known of each, its reference solver and its random inputs."""
