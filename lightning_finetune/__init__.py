"""The fine-tuning practice of the fast.ai lessons for every PyTorch Lightning user."""
