"""Where heads decide their labels, and how a decision is exchanged between heads."""
