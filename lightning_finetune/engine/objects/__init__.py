"""Any object, kept as it is and put back."""
