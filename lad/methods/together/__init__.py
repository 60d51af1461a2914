"""Methods in which networks of one run, or the exits of one network, learn from each other."""
