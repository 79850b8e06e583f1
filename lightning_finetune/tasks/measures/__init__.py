"""What a task is judged by: losses, metrics, thresholds, counts of confused classes."""
