"""Export a fitted network to the formats of other libraries, one module for each."""
