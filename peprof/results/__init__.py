"""What was measured: records, their store, and what may be compared. Never imports torch."""
