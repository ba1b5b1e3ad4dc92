"""Videos made by trained models: from files, to files, in constant memory."""
