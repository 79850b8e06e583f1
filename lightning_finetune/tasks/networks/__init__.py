"""Backbones, heads and decoders, and their weights."""
