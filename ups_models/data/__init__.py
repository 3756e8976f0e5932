"""Data: fields and their split, the layouts of files, generation, inspection and batches."""
