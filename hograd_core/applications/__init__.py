"""Higher-order derivatives where they are used: penalties, differential equations, meta-learning."""
