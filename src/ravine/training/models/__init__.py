"""Networks by name, each a plain `nn.Module`."""
