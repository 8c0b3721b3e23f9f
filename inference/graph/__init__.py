"""Which photos are compared, and which pairs are believed."""
