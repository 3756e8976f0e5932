"""Tables and panels of the command line."""
