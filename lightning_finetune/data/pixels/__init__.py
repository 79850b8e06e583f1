"""From a file to pixels, and what augments them."""
