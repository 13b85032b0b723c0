"""What belongs to heart sounds alone: their cycles and their preparation."""
