"""Training compared with torch, and gradients with finite differences."""
