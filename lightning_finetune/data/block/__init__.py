"""The data block: which images, how split, how labelled."""
