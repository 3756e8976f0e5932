"""The science: latent PDE surrogates in PyTorch. No Prefect, no W&B, no network."""
