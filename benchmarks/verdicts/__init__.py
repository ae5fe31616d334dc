"""Is a masked classifier ever called established? A bench of masked and honest classifiers, and the truth of each."""
