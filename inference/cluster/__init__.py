"""Work that is spread over a Ray cluster."""
