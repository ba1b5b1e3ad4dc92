"""Training: one loop for every video model."""
