"""From batches to a checkpoint and a report."""
