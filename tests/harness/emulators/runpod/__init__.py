"""RunPod on loopback."""
