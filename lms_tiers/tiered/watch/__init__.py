"""What is told: events and counters."""
