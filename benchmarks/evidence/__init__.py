"""What Learn2Perturb buys, by runs that fit two cores; ``__main__`` makes them, ``page`` and ``pictures`` tell them."""
