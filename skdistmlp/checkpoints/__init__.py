"""Training that outlives its process: the state on disk, and fits that resume."""
