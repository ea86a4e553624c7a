"""What every run on a cluster needs: placement, cache, liveness, clean-up."""
