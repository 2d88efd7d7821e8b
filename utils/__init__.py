"""The data library: from files to batches."""
