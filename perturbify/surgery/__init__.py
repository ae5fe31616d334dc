"""Surgery: find the convolution calls of a network and put a noise module behind each."""
