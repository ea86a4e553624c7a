"""Check that scikit-learn and every engine and plan give the same answer."""
