"""One module per family of properties; importing a module registers what it holds."""
