"""Is a masked classifier ever called established? Masked and honest classifiers, and the true accuracy of each."""
