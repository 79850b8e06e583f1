"""From the data block to the batches of a run."""
