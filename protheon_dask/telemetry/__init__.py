"""What is told about the work: events and statistics."""
