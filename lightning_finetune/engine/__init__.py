"""Plain PyTorch: what a run is, step by step; nothing here knows Lightning."""
