"""Figures of runs and predictions: plain matplotlib, drawn without a display; ``content`` alone needs none of it."""
