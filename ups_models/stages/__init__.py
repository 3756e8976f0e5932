"""The stages of training, one module each."""
