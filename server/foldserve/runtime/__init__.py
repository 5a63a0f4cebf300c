"""Sessions: run a model on a device."""
