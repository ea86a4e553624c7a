"""What users install: the sdist and the wheel."""
