"""What a training with a deadline costs on rented machines, replayed over traces of a market."""
