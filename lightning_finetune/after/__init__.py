"""What comes after training: load and predict, interpret, export."""
