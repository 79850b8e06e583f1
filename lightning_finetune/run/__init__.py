"""What binds phases to one Trainer; the callbacks are made of it."""
