"""How a fit goes on elsewhere when workers are lost, leave or join."""
