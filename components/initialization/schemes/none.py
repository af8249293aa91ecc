"""All weights as the class made them."""
