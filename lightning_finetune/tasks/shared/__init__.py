"""What every task uses."""
