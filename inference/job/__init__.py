"""Work that is planned, remembered and resumed."""
