"""Search: clips found again by what they look and sound like."""
