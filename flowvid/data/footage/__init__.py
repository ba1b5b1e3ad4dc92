"""Real footage: files read and written by time, windows, splits, buckets, batches and shards."""
