"""Good models from little data: pretrained networks, and the parts that fit them to new data."""
