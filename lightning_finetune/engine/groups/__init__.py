"""Layer groups: which parts a network has, in which order they act, and what somebody says of them."""
