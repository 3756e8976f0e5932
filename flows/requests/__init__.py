"""What a person may ask for, and what it comes to."""
