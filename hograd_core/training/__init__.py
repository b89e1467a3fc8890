"""Training steps with and without their second-order part: what a derivative of order two costs where it is used."""
