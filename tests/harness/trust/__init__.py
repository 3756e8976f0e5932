"""What the files, servers and people around a run may do to it, tried."""
