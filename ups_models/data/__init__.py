"""Data: reference solvers, the field's HDF5 layout, and batches."""
