"""Video models: one method per module, all with the same loss and sample, so that they can be compared."""
