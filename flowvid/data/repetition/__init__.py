"""What repeats in footage, and how to train on it once."""
