"""Which machine to rent, at what price and when."""
