"""Layouts of data files, one module each."""
