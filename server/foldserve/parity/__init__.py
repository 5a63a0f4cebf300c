"""How near two models are: measures, the gate at load, its judge."""
