"""What Learn2Perturb gains, in runs that fit two cores; ``__main__`` runs them, ``page`` and ``pictures`` show them."""
